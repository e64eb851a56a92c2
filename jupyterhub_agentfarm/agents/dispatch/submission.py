"""What is submitted to the server of an attempt."""

from __future__ import annotations

import json
from typing import Any

from ...errors import NotFoundError
from ..models import Attempt, Task
from ..tasks.files import TaskFiles


async def submission(task: Task, attempt: Attempt, files: TaskFiles) -> bytes:
    """Return the JSON that asks for an attempt's run.

    The notebook, which may have tens of MiB, is put in as it is kept: JSON that was checked when it was submitted.
    """
    about = json.dumps(_about(task, attempt)).encode()
    try:
        notebook = await files.notebook(task.id)
    except NotFoundError:
        source = json.dumps({"path": task.request.path}).encode()
    else:
        source = b'{"notebook":' + notebook + b"}"
    return source[:-1] + b"," + about[1:]


def _about(task: Task, attempt: Attempt) -> dict[str, Any]:
    asked = task.request
    return {
        "parameters": dict(asked.parameters),
        "kernel_name": asked.options.kernel or None,
        "timeout_seconds": asked.timeout_seconds,
        "name": (asked.name or f"task {task.id}")[:200],
        "idempotency_key": attempt.key,
        "environment": {
            "AGENTFARM_TASK_ID": task.id,
            "AGENTFARM_ATTEMPT": str(attempt.number),
            "AGENTFARM_FENCE": str(attempt.fence),
        },
    }
