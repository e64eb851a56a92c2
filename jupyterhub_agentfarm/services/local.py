"""How the Hub, its services and the command line find and trust each other on one machine.

They share a runtime directory (mode 0700) that belongs to the account of the Hub. In it lie

``token``
    a random secret, made once (0600); the file appears with its whole text. Who can read it is that account, and may
    do everything: the spawner uses it towards the controller, and so does an admin's command line.
``NAME.json``
    where the service NAME listens, written when it listens: ``{"url": "http://127.0.0.1:8101/services/agentfarm/"}``;
    with internal_ssl also where the certificates are with which this account connects, as ``certs_dir``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError, FarmUnavailable

ENV_RUNTIME_DIR = "AGENTFARM_RUNTIME_DIR"
#: A token with fewer characters is no secret: 128 bits in hex.
MIN_TOKEN_CHARACTERS = 32


def default_runtime_dir() -> Path:
    """Return $AGENTFARM_RUNTIME_DIR, or ``agentfarm-runtime`` in the working directory."""
    return Path(os.environ.get(ENV_RUNTIME_DIR) or "agentfarm-runtime").absolute()


@contextlib.contextmanager
def _written(path: Path, content: str | bytes) -> Iterator[Path]:
    """A file of mode 0600 beside `path` that holds `content`; it is gone at the end unless it was moved."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def write_private(path: Path, content: str | bytes) -> None:
    """Replace the file at `path` by one with mode 0600 that holds `content`, text as UTF-8, all at once."""
    with _written(path, content) as new:
        new.replace(path)


def prepare(runtime_dir: Path) -> None:
    """Make the runtime directory, or check that the one there is private.

    Raises
    ------
    ConfigError
        It belongs to somebody else, or others may enter it.
    """
    runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = runtime_dir.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigError(f"the runtime directory {runtime_dir} must be yours alone: `chmod 700` it, or name another")


def local_token(runtime_dir: Path) -> str:
    """Return the shared secret of `runtime_dir`; make it when there is none yet.

    Raises
    ------
    ConfigError
        What is there is too short to be a secret, or the directory is not private.
    """
    prepare(runtime_dir)
    path = runtime_dir / "token"
    if not path.exists():
        # A link, not a rename: of two that make one at the same moment both must return the same.
        with _written(path, secrets.token_hex(32)) as new, contextlib.suppress(FileExistsError):
            path.hardlink_to(new)
    token = path.read_text().strip()
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise ConfigError(f"{path} holds no secret of at least {MIN_TOKEN_CHARACTERS} characters: remove it")
    return token


def announce(runtime_dir: Path, service: str, url: str, certs_dir: str | None = None) -> None:
    """Write down where `service` listens, and the Hub's `internal_certs_location` where it listens with TLS."""
    prepare(runtime_dir)
    found = {"url": url} | ({"certs_dir": certs_dir} if certs_dir else {})
    write_private(runtime_dir / f"{service}.json", json.dumps(found))


def find_service(runtime_dir: Path, service: str) -> str:
    """Return the URL that `service` listens at.

    Raises
    ------
    FarmUnavailable
        No such service was ever started with this runtime directory.
    """
    return str(_announced(runtime_dir, service)["url"])


def find_certs_dir(runtime_dir: Path, service: str) -> Path | None:
    """Return the Hub's `internal_certs_location` where `service` listens with TLS, else None.

    Raises
    ------
    FarmUnavailable
        No such service was ever started with this runtime directory.
    """
    certs_dir = _announced(runtime_dir, service).get("certs_dir")
    return Path(certs_dir) if certs_dir else None


def _announced(runtime_dir: Path, service: str) -> dict[str, str]:
    path = runtime_dir / f"{service}.json"
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError as exc:
        raise FarmUnavailable(
            f"no {service} service is known in {runtime_dir}: start the Hub, or name its directory with --runtime-dir"
        ) from exc
