"""Suites are read strictly: every error names the file, the key, what is wanted and what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyterhub_agentfarm.benchmark.suites import Limits, SuiteCatalogue, SuitePhase, Targets, read_suite
from jupyterhub_agentfarm.errors import InvalidField, NotFoundError
from jupyterhub_agentfarm.share import share_path

CASE = '[[case]]\nname = "one"\nnotebook = "n.ipynb"\n'
HEAD = 'name = "s"\ntitle = "S"\n'


def write(folder: Path, text: str, name: str = "s.toml") -> Path:
    """Write a suite with its notebook."""
    (folder / "n.ipynb").write_text("{}")
    path = folder / name
    path.write_text(text)
    return path


def test_a_whole_suite(tmp_path: Path) -> None:
    """Every key is taken, and the text's hash is kept."""
    text = HEAD + "gpus = 2\nsample_interval_seconds = 1\ntimeout_seconds = 90.5\n" + CASE + "parameters = {a = [1, 2]}"
    suite = read_suite(write(tmp_path, text))
    assert (suite.gpus, suite.sample_interval_seconds, suite.timeout_seconds) == (2, 1.0, 90.5)
    assert suite.cases[0].parameters == {"a": [1, 2]}
    assert len(suite.sha256) == 64
    assert suite.notebook_path(suite.cases[0]) == tmp_path / "n.ipynb"


WHOLE = """
mode = "ramp"
repeat = 3
ramp = [1, 2, "all"]
concurrency = 2
work = "shared"
shared_parameters = ["scale"]
warm_up = 1
exclusive = true
[targets]
nodes = ["n1"]
labels = {rack = "a"}
role = "microserver"
[limits]
max_memory_ratio = 0.9
max_gpu_memory_ratio = 1
min_succeeded_ratio = 0.99
min_cases_per_minute = 10
max_nodes_lost = 0
min_balance_ratio = 0.8
fail_fast = true
[[case]]
name = "one"
notebook = "n.ipynb"
parameters = {scale = 2.5}
"""


def test_every_key_of_how_a_run_goes(tmp_path: Path) -> None:
    """Mode, targets, sharing and limits are taken as they are written; "all" is 0."""
    suite = read_suite(write(tmp_path, HEAD + WHOLE))
    assert (suite.mode, suite.repeat, suite.ramp, suite.warm_up) == ("ramp", 3, (1, 2, 0), 1)
    assert (suite.concurrency, suite.work, suite.shared_parameters) == (2, "shared", ("scale",))
    assert suite.exclusive
    assert suite.targets == Targets(("n1",), {"rack": "a"}, "microserver")
    assert suite.limits == Limits(0.9, 1.0, 0.99, 10.0, 0, 0.8, fail_fast=True)


@pytest.mark.parametrize(("written", "seconds"), [('"4h"', 14400), ("90", 90), ('"1.5m"', 90), ("0.5", 0.5)])
def test_a_duration_is_seconds_or_has_a_unit(tmp_path: Path, written: str, seconds: float) -> None:
    """Both are the same seconds."""
    suite = read_suite(write(tmp_path, HEAD + f'mode = "duration"\nduration = {written}\n' + CASE))
    assert suite.duration_seconds == seconds


def test_phases(tmp_path: Path) -> None:
    """Each [[phase]] has its nodes, concurrency and repetitions, or those of the suite."""
    text = (
        HEAD
        + CASE
        + '[[phase]]\nname = "dedicated"\n[[phase]]\nname = "shared"\nnodes = 2\nconcurrency = 4\nrepeat = 3\n'
    )
    assert read_suite(write(tmp_path, text)).phase_tables == (SuitePhase("dedicated"), SuitePhase("shared", 2, 4, 3))


@pytest.mark.parametrize(("gpus", "have", "asked"), [('"auto"', 4, 1), ('"auto"', 0, 0), ("2", 0, 2), ("0", 4, 0)])
def test_gpus(tmp_path: Path, gpus: str, have: int, asked: int) -> None:
    """`auto` asks for one GPU where the node has any; a number asks for that many."""
    assert read_suite(write(tmp_path, HEAD + f"gpus = {gpus}\n" + CASE)).gpus_for(have) == asked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = [", "s.toml must be a TOML file"),
        (CASE, "s.toml: name must be given, not None"),
        (HEAD, "s.toml: case must be at least one"),
        (HEAD + "case = 3\n", "s.toml: case must be a list of tables"),
        (HEAD + "colour = 1\n" + CASE, "s.toml: colour must be one of"),
        (HEAD + "sha256 = 'x'\n" + CASE, "s.toml: sha256 must be left out"),
        (HEAD.replace('"s"', '"Big S"') + CASE, "s.toml: name must be 1-63 lower-case letters"),
        (HEAD + "gpus = 'many'\n" + CASE, "s.toml: gpus must be \"auto\" or a whole number from 0 to 16, not 'many'"),
        (HEAD + "gpus = true\n" + CASE, 's.toml: gpus must be "auto" or a whole number'),
        (HEAD + "gpus = 99\n" + CASE, "s.toml: gpus must be"),
        (HEAD + "timeout_seconds = 0\n" + CASE, "s.toml: timeout_seconds must be a number of seconds above 0, not 0"),
        (HEAD + "sample_interval_seconds = 'x'\n" + CASE, "s.toml: sample_interval_seconds must be a number, not 'x'"),
        (HEAD + CASE + "timeout_seconds = 'x'\n", "s.toml: case[0].timeout_seconds must be a number, not 'x'"),
        (HEAD + CASE + "timeout_seconds = -1\n", "s.toml: case[0].timeout_seconds must be a number of seconds above 0"),
        (HEAD + CASE + "colour = 1\n", "s.toml: case[0].colour must be one of"),
        (HEAD + CASE + CASE, "s.toml: case.name must be different in every case, not 'one'"),
        (HEAD + CASE.replace("n.ipynb", "../n.ipynb"), "s.toml: case[0].notebook must be a relative path"),
        (HEAD + CASE.replace("n.ipynb", "/n.ipynb"), "s.toml: case[0].notebook must be a relative path"),
        (HEAD + CASE.replace("n.ipynb", "n.py"), "s.toml: case[0].notebook must be a relative path"),
        (HEAD + CASE + "parameters = {d = 2026-01-01}\n", "s.toml: case[0].parameters.d must be a value that JSON"),
        (HEAD + CASE + "parameters = {d = nan}\n", "s.toml: case[0].parameters.d must be a value that JSON"),
        (HEAD + "mode = 'often'\n" + CASE, "s.toml: mode must be one of 'once', 'repeat', 'duration', 'ramp', not"),
        (HEAD + "repeat = 2\n" + CASE, 's.toml: repeat must be left out unless mode is "repeat" or "ramp", not 2'),
        (HEAD + "mode = 'repeat'\nrepeat = 0\n" + CASE, "s.toml: repeat must be a whole number from 1 to"),
        (HEAD + "duration = 3\n" + CASE, 's.toml: duration must be left out unless mode is "duration", not 3.0'),
        (HEAD + "mode = 'duration'\n" + CASE, "s.toml: duration must be a number of seconds above 0, not 0"),
        (
            HEAD + "mode = 'duration'\nduration = 'long'\n" + CASE,
            "s.toml: duration must be a number of seconds above 0",
        ),
        (HEAD + "mode = 'duration'\nduration = inf\n" + CASE, "s.toml: duration must be a number of seconds above 0"),
        (HEAD + "duration_seconds = 3\n" + CASE, "s.toml: duration_seconds must be left out: it is no key"),
        (HEAD + "ramp = [1, 2]\n" + CASE, 's.toml: ramp must be left out unless mode is "ramp", not [1, 2]'),
        (HEAD + "mode = 'ramp'\nramp = [2, 1]\n" + CASE, "s.toml: ramp must be growing numbers of nodes"),
        (HEAD + "mode = 'ramp'\nramp = ['all', 1]\n" + CASE, "s.toml: ramp must be growing numbers of nodes"),
        (HEAD + "mode = 'ramp'\nramp = ['some']\n" + CASE, "s.toml: ramp[0] must be a whole number, not 'some'"),
        (HEAD + "concurrency = 0\n" + CASE, "s.toml: concurrency must be a whole number from 1 to 64, not 0"),
        (HEAD + "warm_up = -1\n" + CASE, "s.toml: warm_up must be a whole number from 0 to"),
        (HEAD + "work = 'shared'\n" + CASE, 's.toml: shared_parameters must be given where work is "shared"'),
        (HEAD + "shared_parameters = ['a']\n" + CASE, 's.toml: shared_parameters must be left out unless work is "sha'),
        (
            HEAD + "work = 'shared'\nshared_parameters = ['a']\n" + CASE,
            "s.toml: shared_parameters must be names of parameters of the suite's cases, not 'a'",
        ),
        (
            HEAD + "work = 'shared'\nshared_parameters = ['a']\n" + CASE + "parameters = {a = 'x'}",
            "s.toml: parameters.a must be a number: the nodes share it, not 'x'",
        ),
        (HEAD + "targets = {role = 'x'}\n" + CASE, "s.toml: targets.role must be one of 'microserver', 'gpuserver'"),
        (HEAD + "targets = {rack = 'x'}\n" + CASE, "s.toml: targets.rack must be one of labels, nodes, role"),
        (
            HEAD + "limits = {max_memory_ratio = 2}\n" + CASE,
            "s.toml: limits.max_memory_ratio must be a number from 0 to 1",
        ),
        (
            HEAD + "limits = {max_nodes_lost = -1}\n" + CASE,
            "s.toml: limits.max_nodes_lost must be a whole number from 0",
        ),
        (HEAD + "limits = {min_speed = 1}\n" + CASE, "s.toml: limits.min_speed must be one of fail_fast, max_gpu"),
        (HEAD + "phase = 3\n" + CASE, "s.toml: phase must be a list of tables: write [[phase]]"),
        (HEAD + CASE + "[[phase]]\nname = 'A b'\n", "s.toml: phase[0].name must be 1-63 lower-case letters"),
        (HEAD + CASE + "[[phase]]\nname = 'a'\nconcurrency = 0", "s.toml: phase[0].concurrency must be a whole number"),
        (HEAD + CASE + 2 * "[[phase]]\nname = 'a'\n", "s.toml: phase.name must be different in every phase, not 'a'"),
        (HEAD + "mode = 'ramp'\n" + CASE + "[[phase]]\nname = 'a'\n", "s.toml: phase must be left out where mode is"),
    ],
)
def test_errors(tmp_path: Path, text: str, message: str) -> None:
    """Each mistake gives one sentence that says where and what."""
    with pytest.raises(InvalidField) as caught:
        read_suite(write(tmp_path, text))
    assert message in str(caught.value)


def test_a_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    """The catalogue gives what can be used and says what cannot, a missing notebook included."""
    write(tmp_path, HEAD + CASE)
    broken = write(tmp_path, "name = 1", "broken.toml")
    lacking = write(tmp_path, HEAD + CASE.replace("n.ipynb", "lost.ipynb"), "lacking.toml")
    suites, problems = SuiteCatalogue([tmp_path]).load()
    assert set(suites) == {"s"}
    assert set(problems) == {str(broken), str(lacking)}
    assert "there is no lost.ipynb" in problems[str(lacking)]


def test_an_earlier_folder_wins(tmp_path: Path) -> None:
    """A site's suite replaces a shipped one of the same name."""
    for name in ("site", "shipped"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, HEAD.replace('"S"', f'"{name}"') + CASE)
    assert SuiteCatalogue([tmp_path / "site", tmp_path / "shipped"]).get("s").title == "site"


def test_an_unknown_suite(tmp_path: Path) -> None:
    """The error names the suites that there are."""
    write(tmp_path, HEAD + CASE)
    with pytest.raises(NotFoundError, match=r"no suite 'x' \(known: s\)"):
        SuiteCatalogue([tmp_path]).get("x")


def test_the_shipped_suites_can_be_used() -> None:
    """Every suite in benchmark/suites is read and has its notebooks."""
    suites, problems = SuiteCatalogue([share_path("suites")]).load()
    assert problems == {}
    assert "smoke" in suites
