"""What npm installs for VS Code's calls."""

from __future__ import annotations

import json

from vscode_calls import RECIPE


def test_the_lock_file_names_no_registry() -> None:
    """The packages come from whichever registry the machine uses, and are known by their SHA-512 sums."""
    packages = json.loads((RECIPE / "package-lock.json").read_text())["packages"]
    installed = [package for name, package in packages.items() if name]
    assert installed
    assert all("resolved" not in package and package["integrity"].startswith("sha512-") for package in installed)
