"""What is submitted, checked as far as it can be without knowing the agent.

A body may hold a notebook of tens of MiB, whose JSON would occupy the interpreter for a second: a large one is read by
a child process (``python -m jupyterhub_agentfarm.agents.tasks.intake``), which gets the body at stdin and answers a
line of JSON, followed by the notebook. There are few such children at a time, and the memory of each is bounded.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...bodies import decode
from ...errors import AgentFarmError, InvalidField
from ...models import KERNEL_NAME
from ...records import from_json, to_json
from ...services.turns import Turns
from ..models import TaskRequest

#: Longer bodies are read by a child.
LARGE_BYTES = 2 * 2**20
#: Deadline of the child.
CHILD_SECONDS = 60.0
#: Children at a time.
CHILDREN = 2
#: Address space of a child.
CHILD_BYTES = 2**30
MAX_PARAMETERS_BYTES = 256 * 2**10


@dataclass(frozen=True)
class Submitted:
    """A checked request; its `notebook` is empty when there is one, and the notebook itself is beside it."""

    request: TaskRequest
    #: JSON.
    notebook: bytes | None = None
    #: The kernel that the notebook names; "": none, or the notebook is in the workspace.
    kernel: str = ""
    #: Of the notebook's kernel and cells, without their ids and outputs: equal ones are the same work.
    digest: str = ""

    @property
    def askable_kernel(self) -> str:
        """The kernel that the notebook names, where a server can be asked to have it; "": none."""
        return self.kernel if KERNEL_NAME.fullmatch(self.kernel) else ""


def read(body: bytes) -> Submitted:
    """Return what a body asks for.

    Raises
    ------
    InvalidField
        It is not JSON, no request for a task, or the notebook is none that could be executed.
    """
    request = from_json(TaskRequest, decode(body))
    if request.path is not None:
        check_path(request.path)
        _check_parameters(request.parameters, "python")
        return Submitted(request)
    from ...runs.notebooks import executes, parse_notebook  # it takes seconds, for which the service need not wait

    data: Any = request.notebook
    text = json.dumps(data, separators=(",", ":")).encode()
    notebook = parse_notebook(data, "notebook")
    if not any(executes(cell) for cell in notebook.cells):
        raise InvalidField("notebook", "a notebook with at least one code cell that is executed", "one without")
    kernel = notebook.metadata.get("kernelspec", {})
    language = notebook.metadata.get("language_info", {}).get("name") or kernel.get("language") or "python"
    _check_parameters(request.parameters, str(language))
    name = str(kernel.get("name") or "")
    return Submitted(replace(request, notebook={}), text, name, _digest(name, notebook.cells))


def _digest(kernel: str, cells: Iterable[Any]) -> str:
    work = [kernel, *([cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in cells)]
    return hashlib.sha256(json.dumps(work).encode()).hexdigest()


def check_path(path: str) -> None:
    """Refuse a path that cannot be one in a workspace.

    Raises
    ------
    InvalidField
        It is absolute or leads out, or is longer than file systems take.
    """
    parts = path.split("/")
    if len(path) > 1000 or not path.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise InvalidField("path", "relative to the agent's workspace, and inside it", path)


def _check_parameters(parameters: Mapping[str, Any], language: str) -> None:
    if not parameters:
        return
    from ...runs.parameters import source

    text = source(parameters, language)
    if len(text) > MAX_PARAMETERS_BYTES:
        wanted = f"at most {MAX_PARAMETERS_BYTES} characters long: put data into the workspace"
        raise InvalidField("parameters", wanted, f"{len(text)} characters")


class Intake:
    """Reads bodies off the event loop, the large ones by few children."""

    def __init__(self) -> None:
        self._turns = Turns("large notebooks are being read", CHILDREN, seconds=CHILD_SECONDS)

    async def read(self, body: bytes, user: str) -> Submitted:
        """Return what a body of `user` asks for, without holding the event loop up for long.

        Raises
        ------
        InvalidField
            As :func:`read`.
        TooMany
            Other large ones of this user are being read.
        Overloaded
            Too many large ones are.
        """
        if len(body) <= LARGE_BYTES:
            return await asyncio.to_thread(read, body)
        async with self._turns.turn(user):
            head, _, notebook = (await _ask_child(body)).partition(b"\n")
        answer = json.loads(head)
        if "field" in answer:
            raise InvalidField(answer["field"], answer["wanted"], answer["got"])
        request = from_json(TaskRequest, answer["request"])
        return Submitted(request, notebook or None, answer["kernel"], answer["digest"])


async def _ask_child(body: bytes) -> bytes:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        env={name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ},
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
    )
    try:
        async with asyncio.timeout(CHILD_SECONDS):
            answer, _ = await child.communicate(body)
    except TimeoutError as exc:
        raise InvalidField("notebook", f"one that is read within {CHILD_SECONDS:.0f} s", "a larger one") from exc
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        raise InvalidField("notebook", "one that can be read in the memory there is", f"{len(body)} bytes")
    return answer


def answer_to(body: bytes) -> bytes:
    """Return what the child answers to a body."""
    try:
        submitted = read(body)
    except InvalidField as exc:
        return json.dumps({"field": exc.field, "wanted": exc.wanted, "got": repr(exc.got)[:80]}).encode()
    except AgentFarmError as exc:
        return json.dumps({"field": "notebook", "wanted": exc.message, "got": None}).encode()
    head = {"request": to_json(submitted.request), "kernel": submitted.kernel, "digest": submitted.digest}
    return json.dumps(head).encode() + b"\n" + (submitted.notebook or b"")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
    sys.stdout.buffer.write(answer_to(sys.stdin.buffer.read()))
