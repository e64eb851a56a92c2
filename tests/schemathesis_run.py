"""schemathesis against a running API: what its own description promises, asked with data that it makes up."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
#: 500 is a fault of ours; 502 and 503 are answers about nodes that cannot be reached, and are described.
CONFIG = """
[headers]
Authorization = "token {token}"

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 502, 503]
"""


@dataclass(frozen=True)
class Outcome:
    """What a run of schemathesis came to."""

    status: int
    printed: str
    #: Requests that it made.
    cases: int

    def check(self, least: int) -> None:
        """Fail with what was found, or when hardly anything was asked."""
        assert self.status == 0, self.printed
        assert self.cases >= least, self.printed


async def explore(
    folder: Path, description: dict[str, Any], origin: str, token: str, examples: int, *options: str
) -> Outcome:
    """Run schemathesis with `examples` for each operation of a description.

    Parameters
    ----------
    folder
        Where its files go.
    description
        The OpenAPI document; what it names is asked for.
    origin
        Scheme, host and port of the API.
    token
        Sent with every request.
    """
    (folder / "openapi.json").write_text(json.dumps(description))
    (folder / "schemathesis.toml").write_text(CONFIG.format(token=token))
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", "openapi.json",
        f"--url={origin}{description['servers'][0]['url']}",
        f"--checks={','.join(CHECKS)}", f"--max-examples={examples}", "--phases=coverage,fuzzing",
        "--continue-on-failure",
        "--generation-deterministic", "--no-color", "--warnings=off", "--no-shrink",
        "--request-timeout=20", "--suppress-health-check=all", "--report=ndjson", "--report-ndjson-path=events.ndjson",
        *options,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        printed = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = re.search(r"(\d+) generated", printed)
    return Outcome(process.returncode or 0, printed, int(found[1]) if found else 0)


def narrowed(description: dict[str, Any], parameters: dict[str, list[str]], streams: bool = False) -> dict[str, Any]:
    """Return a description with only these values for what varies in paths, and without streams that never end."""
    made: dict[str, Any] = json.loads(json.dumps(description))
    for path, item in list(made["paths"].items()):
        if path.endswith("events") and not streams:
            del made["paths"][path]
            continue
        for operation in item.values():
            for parameter in operation["parameters"]:
                if parameter["in"] == "path" and parameter["name"] in parameters:
                    parameter["schema"] = {"enum": parameters[parameter["name"]]}
    return made
