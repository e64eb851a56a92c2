"""Builds the fake NVML library and writes the file that it reads; see nvml.c for the file's form."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml.c")


def compiler() -> str | None:
    """Return the C compiler of this machine."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build(folder: Path) -> Path:
    """Compile the library into `folder` and return `folder`, to be put into LD_LIBRARY_PATH."""
    cc = compiler()
    assert cc is not None, "no C compiler"
    command = [cc, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)]
    subprocess.run(command, check=True, timeout=50)
    return folder


class FakeNvml:
    """What the fake library answers.

    Parameters
    ----------
    library
        Folder of the built library.
    state
        The file that it reads.
    """

    def __init__(self, library: Path, state: Path) -> None:
        self.library, self.state = library, state
        self._values: dict[str, object] = {}
        self.set()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to load it."""
        return {"LD_LIBRARY_PATH": str(self.library), "FAKE_NVML_STATE": str(self.state)}

    def set(self, **values: object) -> None:
        """Change keys, with `__` for the dot: set(gpu0__uuid="GPU-1"). None removes a key."""
        for name, value in values.items():
            self._values[name.replace("__", ".")] = value
        lines = [f"{key}={value}\n" for key, value in self._values.items() if value is not None]
        new = self.state.with_suffix(".new")
        new.write_text("".join(lines), "utf-8")
        new.replace(self.state)
