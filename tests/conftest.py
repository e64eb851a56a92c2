"""Which tiers can run here, and a clean environment for all of them.

A tier is a marker. What this machine lacks for one is the reason with which its tests are skipped; the reasons stand
together at the end of the output.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from jupyterhub_agentfarm.noded.cgroups import hierarchies


def _program(package: str, *names: str) -> Callable[[], str | None]:
    """Return a check for programs, one of which must be there."""

    def why_not() -> str | None:
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        if any(shutil.which(name, path=path) for name in names):
            return None
        return f"{' or '.join(names)} is not installed (as root, make test installs it: apt-get install {package})"

    return why_not


def _no_sshd() -> str | None:
    account = pwd.getpwuid(os.getuid())
    if Path(account.pw_shell).name in {"nologin", "false"}:
        return f"sshd lets nobody log in as {account.pw_name}, whose shell is {account.pw_shell}"
    return _program("openssh-server", "sshd")()


def _no_namespaces() -> str | None:
    import netns

    return netns.why_not()


def _no_sandbox() -> str | None:
    missing = _program("bubblewrap", "bwrap")()
    if missing is not None:
        return missing
    from jupyterhub_agentfarm.noded.isolation.bubblewrap import Bubblewrap

    return Bubblewrap().why_not()


def _no_gpu() -> str | None:
    return None if Path("/dev/nvidiactl").exists() else "this machine has no NVIDIA GPU"


def _no_docker() -> str | None:
    import container_image

    return container_image.why_no_docker()


def _no_vscode() -> str | None:
    import vscode_calls

    return vscode_calls.why_no_vscode()


def _no_r_kernel() -> str | None:
    from jupyterhub_agentfarm.server.kernels import kernels

    if any(kernel.name == "ir" for kernel in kernels()):
        return _program("r-base-core", "R")()
    return "R's kernel is not installed (as root, make test installs it: apt-get install r-cran-irkernel)"


def _no_framework() -> str | None:
    import framework

    return framework.why_no_framework()


#: For each marker: returns why its tests cannot run here, or None.
TIERS: dict[str, Callable[[], str | None]] = {
    "sshd": _no_sshd,
    "netns": _no_namespaces,
    "browser": _program("chromium", "chromium", "chromium-browser", "google-chrome"),
    "prometheus": _program("prometheus", "promtool"),
    "gpu": _no_gpu,
    "bwrap": _no_sandbox,
    "docker": _no_docker,
    "vscode": _no_vscode,
    "framework": _no_framework,
    "rkernel": _no_r_kernel,
}

_skipped: Counter[tuple[str, str]] = Counter()


def pytest_configure(config: pytest.Config) -> None:
    """Take away what a farm, a Hub or a shell around the tests has set."""
    for name in list(os.environ):
        if name.startswith(("AGENTFARM_", "JUPYTERHUB_", "JPY_")):
            del os.environ[name]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script's `&`; every program that a test starts has it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        _to_own_cgroups()


def _to_own_cgroups() -> None:
    """Put this process where no other worker makes cgroups: their servers have the same names."""
    for base in set(hierarchies().values()):
        own = base / f"agentfarm-tests-{os.getpid()}"
        with contextlib.suppress(OSError):
            own.mkdir()
            (own / "cgroup.procs").write_text(str(os.getpid()))
            atexit.register(_leave_cgroup, base, own)


def _leave_cgroup(base: Path, own: Path) -> None:
    with contextlib.suppress(OSError):
        (base / "cgroup.procs").write_text(str(os.getpid()))
        for folder, _, _ in os.walk(own, topdown=False):
            Path(folder).rmdir()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of tiers that cannot run here; more time for those that start a Hub."""
    reasons = {
        name: why_not() for name, why_not in TIERS.items() if any(item.get_closest_marker(name) for item in items)
    }
    for item in items:
        if item.get_closest_marker("hub") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300))
        for name, reason in reasons.items():
            if reason is not None and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"{name}: {reason}"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count what was skipped, by tier and reason."""
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        tiers = [name for name in (*TIERS, "torch", "hub") if name in report.keywords]
        tier = next((name for name in tiers if reason.startswith(f"{name}: ")), tiers[0] if tiers else "other")
        _skipped[(tier, reason.removeprefix(f"{tier}: "))] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tiers were skipped, and why."""
    if _skipped:
        terminalreporter.section("skipped tiers")
        for (tier, reason), count in sorted(_skipped.items()):
            terminalreporter.line(f"{tier}: {count} test{'' if count == 1 else 's'} skipped: {reason}")
