"""StoredService: a service that keeps a database and files, and is made of parts that end in reverse order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from traitlets import Unicode, default

from .app import ServiceApp

T = TypeVar("T")


class StoredService(ServiceApp):
    """A service with a folder of its data, in it a database of its name unless another one is given."""

    data_dir = Unicode(
        help="Folder for the service's database and files. Default: $AGENTFARM_DATA_DIR or the working directory."
    ).tag(config=True)
    db_url = Unicode(
        help="The service's database, as SQLAlchemy writes it: sqlite:///PATH or postgresql://USER@HOST/NAME. Default: "
        "a file in data_dir with the name of the service, as in agents.sqlite."
    ).tag(config=True)

    @default("data_dir")
    def _data_dir_default(self) -> str:
        return os.environ.get("AGENTFARM_DATA_DIR") or "."

    @default("db_url")
    def _db_url_default(self) -> str:
        return f"sqlite:///{self.data_path.absolute() / f'{self.name}.sqlite'}"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._opened: list[Any] = []

    @property
    def data_path(self) -> Path:
        """The folder."""
        return Path(self.data_dir)

    def own(self, part: T) -> T:
        """Return `part`, which will be closed with the service."""
        self._opened.append(part)
        return part

    async def close(self) -> None:
        """Stop the parts in reverse order; a second call does nothing."""
        while self._opened:
            part = self._opened.pop()
            await (part.aclose() if hasattr(part, "aclose") else part.close())
