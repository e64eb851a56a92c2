"""The test's side of the named points: hold or kill a process of the farm when a user's spawn comes to a point.

::

    points.arm("noded.process_forked", "ada")            # hold
    await hub.request_server("ada")
    await points.reached("noded.process_forked", "ada")
    await hub.kill()
    points.go()                                          # every process that is held goes on

The points, in the order in which a spawn passes them, are `ORDER`; what they mean in code is hooks/fault_points.py.
"""

from __future__ import annotations

from pathlib import Path

from waiting import eventually

ORDER = (
    "hub.before_lease",
    "hub.lease_granted",
    "hub.lease_committed",
    "hub.granted",
    "hub.launch_sending",
    "controller.launch_received",
    "controller.launch_sending",
    "noded.launch_received",
    "noded.record_written",
    "noded.process_forked",
    "noded.process_recorded",
    "noded.launch_answered",
    "controller.launch_answered",
    "controller.running_committed",
    "hub.launch_answered",
    "hub.state_committed",
    "hub.server_answering",
    "hub.started",
    "hub.route_adding",
    "hub.route_added",
)


class Points:
    """The points of one farm.

    Parameters
    ----------
    directory
        What $FAULTS_POINTS names in the farm's processes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    def arm(self, point: str, owner: str, action: str = "hold") -> None:
        """Have the next spawn of `owner` that comes to `point` held there ("hold"), or its process killed ("kill")."""
        assert point in ORDER, point
        for old in (".reached", ".go"):
            (self.directory / f"{point}@{owner}{old}").unlink(missing_ok=True)
        new = self.directory / "new"
        new.write_text(action)
        new.rename(self.directory / f"{point}@{owner}")

    def is_reached(self, point: str, owner: str) -> bool:
        """Whether the spawn came to the point."""
        return (self.directory / f"{point}@{owner}.reached").exists()

    async def reached(self, point: str, owner: str, timeout: float = 30) -> None:
        """Return when the spawn has come to the point."""
        await eventually(lambda: self.is_reached(point, owner), f"{owner}'s spawn comes to {point}", timeout, 0.005)

    def go(self, *owners: str) -> None:
        """Let everybody go on, or those of these owners; points that were not reached are disarmed."""
        for path in self.directory.glob("*@*"):
            name, _, rest = path.name.partition("@")
            owner = rest.removesuffix(".reached")
            if owner.endswith(".go") or name not in ORDER or (owners and owner not in owners):
                continue
            if rest.endswith(".reached"):
                (self.directory / f"{name}@{owner}.go").touch()
            else:
                path.unlink(missing_ok=True)

    def start_timeout(self, owner: str, seconds: int | None) -> None:
        """Set the start_timeout of the user's next spawns; None: the Hub's own."""
        path = self.directory / f"start_timeout@{owner}"
        if seconds is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(str(seconds))

    def cancelled(self, owner: str) -> tuple[str, float] | None:
        """Return how the user's last failed `start` ended (the exception's class), and after how many seconds.

        They count from the DELETE that cancelled it, as the Hub's handler began; without one from its start_timeout.
        """
        try:
            kind, seconds = (self.directory / f"cancelled@{owner}").read_text().split()
        except FileNotFoundError:
            return None
        return kind, float(seconds)

    def set_clock(self, process: str, seconds: float) -> None:
        """Have the wall clock of "hub", "controller" or the noded of the node of this name be off by `seconds`."""
        new = self.directory / "clock"
        new.write_text(str(seconds))
        new.rename(self.directory / f"clock@{process}")

    def loop_lags(self, since: float) -> list[float]:
        """Return by how many seconds the Hub's loop was late, each time that it was by more than 20 ms.

        Parameters
        ----------
        since
            In seconds since the epoch. The Hub is watched from its first start of a server.
        """
        try:
            lines = (self.directory / "loop_lags").read_text().splitlines()
        except FileNotFoundError:
            return []
        pairs = [(float(at), float(late)) for at, late in (line.split() for line in lines)]
        return [late for at, late in pairs if at >= since]
