"""What a run does when nothing goes wrong."""

from __future__ import annotations

import json

import pytest
from jupyter_server_process import Server, notebook

from .conftest import MakeServer, processes_of, text_of


async def test_a_notebook_is_executed_and_described(server: Server) -> None:
    """A run ends as completed, with its cells counted and timed, its notebook kept and no process left."""
    submitted = await server.submit("x = 20", "print(x + 1)\nx * 2", name="sums")
    run = await server.ended(submitted["id"])
    assert run["detail"] is None
    assert (run["state"], run["reason"], run["name"]) == ("completed", None, "sums")
    assert (run["cells_total"], run["cells_done"], run["current_cell"]) == (2, 2, None)
    assert [timing["index"] for timing in run["cell_timings"]] == [0, 1]
    assert 0 < sum(timing["duration_seconds"] for timing in run["cell_timings"]) < run["duration_seconds"]
    assert run["created_at"] <= run["started_at"] <= run["ended_at"]
    cell = (await server.notebook(run["id"]))["cells"][1]
    assert text_of(cell) == "21\n"
    assert cell["outputs"][1]["data"] == {"text/plain": "40"}
    assert cell["execution_count"] == 2
    assert processes_of(run["id"]) == []
    assert run["id"] in [listed["id"] for listed in (await server.request("GET", "")).json()["runs"]]


async def test_the_kernel_has_the_environment_of_the_server_and_of_the_run(server: Server) -> None:
    """The kernel has the server's GPUs, its run's id, and the variables of the request, in the root directory."""
    code = (
        "import json, os\nnames = 'CUDA_VISIBLE_DEVICES', 'AGENTFARM_RUN_ID', 'MORE'\n"
        "print(json.dumps([os.environ[name] for name in names] + [os.getcwd()]))"
    )
    environment = {"MORE": "than = before", "AGENTFARM_RUN_ID": "forged"}
    run = await server.execute(code, environment=environment)
    printed = json.loads(text_of((await server.notebook(run["id"]))["cells"][0]))
    assert printed == ["GPU-of-the-lease", run["id"], "than = before", str(server.root)]
    files = (path for path in (server.runs_directory / run["id"]).rglob("*") if path.is_file())
    kept = "".join(path.read_text() for path in files if path.name != "notebook.ipynb")
    assert "than = before" not in kept


async def test_a_notebook_by_path_runs_in_its_folder_and_is_written_where_asked(server: Server) -> None:
    """A notebook in the server's root is executed in its own folder; the executed one goes to output_path."""
    folder = server.root / "work"
    folder.mkdir(exist_ok=True)
    (folder / "in.ipynb").write_text(json.dumps(notebook("import os; print(os.getcwd())")))
    answer = await server.request("POST", "", json={"path": "work/in.ipynb", "output_path": "work/out.ipynb"})
    run = await server.ended(answer.json()["id"])
    assert (run["state"], run["output_path"]) == ("completed", "work/out.ipynb")
    written = json.loads((folder / "out.ipynb").read_text())
    assert text_of(written["cells"][0]) == f"{folder}\n"
    assert json.loads((folder / "in.ipynb").read_text()) == notebook("import os; print(os.getcwd())")
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".ipynb")) == [
        "in.ipynb",
        "out.ipynb",
    ]


async def test_parameters_and_results(server: Server) -> None:
    """Parameters follow the tagged cell, and what the notebook publishes is merged in order."""
    mime = "application/vnd.agentfarm.result+json"
    cells = [
        {"source": "seed, size, names = 1, 2, None", "metadata": {"tags": ["parameters"]}},
        f"from IPython.display import display\ndisplay({{{mime!r}: {{'seed': seed, 'size': size}}}}, raw=True)",
        f"display({{{mime!r}: {{'size': size + 1, 'names': names}}}}, raw=True)",
    ]
    body = {"notebook": notebook(*cells), "parameters": {"seed": 7, "names": ["a", None, True, {"b": 1.5}]}}
    run = await server.ended((await server.request("POST", "", json=body)).json()["id"])
    assert run["state"] == "completed", run
    results = (await server.request("GET", f"{run['id']}/results")).json()
    assert results == {"seed": 7, "size": 3, "names": ["a", None, True, {"b": 1.5}]}
    injected = (await server.notebook(run["id"]))["cells"][1]
    assert injected["metadata"]["tags"] == ["injected-parameters"]


async def test_a_result_that_is_no_object_is_a_conflict(server: Server) -> None:
    """Results that cannot be merged are refused by name of the cell, and the run itself is completed."""
    mime = "application/vnd.agentfarm.result+json"
    run = await server.execute(f"from IPython.display import display\ndisplay({{{mime!r}: [1]}}, raw=True)")
    answer = await server.request("GET", f"{run['id']}/results")
    assert (run["state"], answer.status_code, answer.json()["reason"]) == ("completed", 409, "conflict")
    assert "Cell 0" in answer.json()["message"]


async def test_the_same_key_is_answered_with_the_same_run(server: Server) -> None:
    """A request that is sent again with its idempotency key does not execute again."""
    body = {"notebook": notebook("1"), "idempotency_key": "once"}
    first = await server.request("POST", "", json=body)
    again = await server.request("POST", "", json=body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    await server.ended(first.json()["id"])


async def test_an_ended_run_can_be_removed_and_an_executing_one_not(server: Server) -> None:
    """DELETE is a conflict while the run executes; afterwards run and folder are gone."""
    run = await server.submit("import time; time.sleep(60)")
    refused = await server.request("DELETE", run["id"])
    assert (refused.status_code, refused.json()["reason"]) == (409, "conflict")
    await server.request("POST", f"{run['id']}/cancel")
    await server.ended(run["id"])
    assert (server.runs_directory / run["id"]).stat().st_mode & 0o777 == 0o700
    assert (server.runs_directory / run["id"] / "run.json").stat().st_mode & 0o777 == 0o600
    assert (await server.request("DELETE", run["id"])).status_code == 204
    assert (await server.request("GET", run["id"])).status_code == 404
    assert not (server.runs_directory / run["id"]).exists()


async def test_the_outputs_of_a_burst_are_whole(server: Server) -> None:
    """20 MB in one print, 100,000 lines, 5000 flushed lines and 20 displays of 1 MB arrive whole, in seconds."""
    run = await server.execute(
        "print('x' * 20_000_000)",
        "for i in range(100_000): print(i)",
        "for i in range(5_000): print(i, flush=True)",
        "for i in range(20): display({'text/plain': str(i) * 1_000_000}, raw=True)",
    )
    assert (run["state"], run["cut"]) == ("completed", []), run
    cells = (await server.notebook(run["id"]))["cells"]
    assert text_of(cells[0]) == "x" * 20_000_000 + "\n"
    assert text_of(cells[1]) == "".join(f"{i}\n" for i in range(100_000))
    assert [len(output["data"]["text/plain"]) for output in cells[3]["outputs"]] == [1_000_000] * 10 + [2_000_000] * 10
    assert text_of(cells[2]) == "".join(f"{i}\n" for i in range(5_000))
    assert run["cell_timings"][1]["duration_seconds"] < 8


async def test_what_is_cut_is_said(make_server: MakeServer) -> None:
    """Beyond max_output_bytes output is cut, the run says what, and it goes on."""
    server = await make_server(max_output_bytes="1M")
    run = await server.execute("print('x' * 3_000_000)", "for i in range(100_000): print(i)", "answer = 42")
    assert (run["state"], run["cells_done"]) == ("completed", 3)
    first, second = run["cut"]
    assert f"Cell 0: {3_000_001 - 2**20} bytes of stdout were cut" in first
    assert f"Cell 1: {sum(len(f'{i}') + 1 for i in range(100_000))} bytes of stdout were cut" in second
    assert text_of((await server.notebook(run["id"]))["cells"][0]) == "x" * 2**20


async def test_markdown_skipped_and_forgiven_cells(server: Server) -> None:
    """Only code counts; a cell tagged skip-execution is left out, one tagged raises-exception may fail."""
    cells = [
        {"source": "1/0", "metadata": {"tags": ["raises-exception"]}},
        {"source": "assert False", "metadata": {"tags": ["skip-execution"]}},
        "print('on')",
    ]
    made = notebook(*cells)
    made["cells"].insert(0, {"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "text"]})
    run = await server.ended((await server.request("POST", "", json={"notebook": made})).json()["id"])
    assert (run["state"], run["cells_total"], run["error"]) == ("completed", 2, None)
    assert [timing["index"] for timing in run["cell_timings"]] == [1, 3]


@pytest.mark.parametrize("verb", ["GET", "POST"])
async def test_without_a_token_nothing_is_answered(server: Server, verb: str) -> None:
    """A request without the server's token is refused."""
    answer = await server.request(verb, "", headers={"Authorization": "token wrong"}, json={"notebook": notebook("1")})
    assert (answer.status_code, answer.json()["reason"]) == (403, "forbidden")
