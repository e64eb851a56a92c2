"""A small image with this machine's Python, imported from a tar file: no registry is asked."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

#: The system's Python: the one of a virtual environment is a link into a tree that the image has not.
PYTHON = Path("/usr/bin/python3")


def why_no_docker() -> str | None:
    """Return why Docker's engine is of no use here, or why no image can be made; None when all is there."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    if not PYTHON.exists():
        return f"there is no {PYTHON} to make an image of"
    done = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False, timeout=20)
    return None if done.returncode == 0 else "Docker's engine does not answer (start dockerd)"


def build(name: str) -> str:
    """Import an image of the system's Python and its libraries, and nothing else; return its name."""
    text = io.BytesIO()
    real = PYTHON.resolve()
    with tarfile.open(fileobj=text, mode="w") as tar:
        for folder in ("tmp", "usr", "usr/bin", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        tar.add(real, "usr/bin/python3")
        library = Path(f"/usr/lib/{real.name}")
        tar.add(library, str(library)[1:], filter=_wanted)
        for path in sorted(_libraries(real)):
            tar.add(path.resolve(), str(path)[1:])
    subprocess.run(["docker", "import", "-", name], input=text.getvalue(), check=True, capture_output=True, timeout=120)
    return name


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    skipped = {"__pycache__", "test", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "dist-packages", "config"}
    return None if skipped & set(Path(entry.name).parts) or "config-3" in entry.name else entry


def _libraries(program: Path) -> set[Path]:
    printed = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
    return {Path(path) for path in re.findall(r"(/\S+)", printed)}


def remove(name: str) -> None:
    """Remove the image."""
    subprocess.run(["docker", "rmi", "--force", name], capture_output=True, check=False, timeout=60)
