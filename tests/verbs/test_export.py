"""``export``: what repositories and simulators accept, of anybody's runs, and nothing that was not asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from handoff_mpi import cli
from handoff_mpi.results import anybodys_story
from handoff_mpi.verbs import export as verb
from handoff_mpi.visualization import ro_crate
from handoff_mpi.visualization.wfformat import file_name, time_text
from tests.conftest import missing, run_process
from tests.results.made_journal import T0, about, done, row, turn, write_large, write_launch, write_status
from tests.verbs.test_graph import DAG_PY, MORE_HOSTILE
from tests.visualization.test_drawing import HOSTILE, write_mixed

VALIDATE = Path(__file__).with_name("validate_crate.py")


@pytest.fixture
def export(in_process, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = cli.main(["export", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a run of rank 0 and two ranks in which a function has failed, and that was resumed."""
    directory = tmp_path_factory.mktemp("finished")
    (directory / "dag.py").write_text(DAG_PY)
    os.utime(directory / "dag.py", (1e9, 1e9))
    command = [sys.executable, "-m", "handoff_mpi", "run", "-n", "3", "--run-dir", "run", "dag.py"]
    assert [run_process(command, directory).rc for _ in range(2)] == [1, 1]
    return directory


def entities(crate):
    graph = json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]
    return {entity["@id"]: entity for entity in graph}


def ids(references):
    return [each["@id"] for each in (references if isinstance(references, list) else [references])]


# -- RO-Crate ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_crate_holds_the_workflow_the_launches_and_what_they_told(export, finished, tmp_path):
    code, out, err = export(finished / "run", "--rocrate", "crate", "--license", "https://spdx.org/licenses/MIT")
    assert (code, out, err) == (0, f"{tmp_path}/crate\n", "")
    found = entities(tmp_path / "crate")
    root, workflow = found["./"], found["dag.py"]
    assert root["mainEntity"] == {"@id": "dag.py"}
    assert root["license"] == {"@id": "https://spdx.org/licenses/MIT"}
    assert sorted(ids(root["hasPart"])) == ["README.md", "dag.py", "trace.tsv", "workflow.json"]
    assert sorted(each.name for each in (tmp_path / "crate").iterdir()) == sorted(
        [*ids(root["hasPart"]), "ro-crate-metadata.json"]
    )
    assert workflow["@type"] == ["File", "SoftwareSourceCode", "ComputationalWorkflow"]
    assert workflow["runtimePlatform"].startswith("handoff_mpi ")
    assert (tmp_path / "crate" / "dag.py").read_text() == DAG_PY
    actions = [found[id] for id in ids(root["mentions"])]
    assert [each["actionStatus"] for each in actions] == ["http://schema.org/FailedActionStatus"] * 2
    assert [each["error"] for each in actions] == ["the run ended as failed"] * 2
    assert all(each["instrument"] == {"@id": "dag.py"} for each in actions)
    assert all(each["startTime"] < each["endTime"] for each in actions)
    assert actions[1]["description"].endswith("; functions: 5, done before: 3; ranks: 3, hosts: 1")
    assert ids(actions[1]["result"]) == ["trace.tsv", "workflow.json"]
    assert "load-0" in (tmp_path / "crate" / "README.md").read_text()
    assert (tmp_path / "crate" / "trace.tsv").read_text().count("\n") == 1 + len(
        json.loads((tmp_path / "crate" / "workflow.json").read_text())["workflow"]["execution"]["tasks"]
    ) + 1  # of the function that failed, two calls


def test_a_crate_of_a_run_that_is_running_says_so(export, tmp_path, monkeypatch):
    write_mixed(tmp_path / "run")
    status = {"status": "running", "exit_code": None, "launch": 1, "time_s": T0 + 6}
    monkeypatch.setattr(anybodys_story, "find_states", lambda run_dirs: dict.fromkeys(run_dirs, ("running", status)))
    assert export("run", "--rocrate", "crate")[0] == 0
    action = entities(tmp_path / "crate")["#launch-1"]
    assert action["actionStatus"] == "http://schema.org/ActiveActionStatus"
    assert "endTime" not in action


def test_without_its_file_the_graph_stands_for_the_workflow(export, tmp_path):
    write_large(tmp_path / "run", 300)
    code, _, err = export("run", "--rocrate", "crate", "--author", "A. Scientist")
    assert code == 0
    assert "name it with --workflow FILE" in err
    found = entities(tmp_path / "crate")
    assert found["./"]["mainEntity"] == {"@id": "workflow.json"}
    assert found["workflow.json"]["programmingLanguage"] == {"@id": "https://github.com/wfcommons/WfFormat"}
    assert found["#launch-1"]["agent"] == {"@id": "#author"}
    (tmp_path / "trace.tsv").write_text("x = 1\n")
    assert export("run", "--rocrate", "named", "--workflow", "trace.tsv")[::2] == (0, "")
    assert (tmp_path / "named" / "dag-trace.tsv").read_text() == "x = 1\n"


def write_naming(run_dir, path, started_s=T0):
    """Write a run that names the file ``path``."""
    write_launch(
        run_dir,
        ("run", about(1, file=str(path), started_s=started_s)),
        ("tasks", 0, [row("f")]),
        ("end", "done", 0, False),
    )
    write_status(run_dir, status="done", exit_code=0, launch=1)


def test_a_run_of_somebody_else_has_no_file_of_this_user_published(export, tmp_path):
    (tmp_path / "secret").write_text("private")
    (tmp_path / "secret.py").write_text("private")
    for name in ("secret", "secret.py"):
        run_dir = tmp_path / f"run-{name}"
        write_naming(run_dir, tmp_path / name)
        run_dir.chmod(0o777 if name == "secret.py" else 0o755)
        code, _, err = export(run_dir, "--rocrate", f"crate-{name}")
        assert code == 0
        assert "or is another user's" in err
        assert "private" not in "".join(path.read_text() for path in (tmp_path / f"crate-{name}").iterdir())


def test_a_file_that_has_changed_or_is_missing_is_told(export, tmp_path):
    (tmp_path / "dag.py").write_text("pass")
    write_naming(tmp_path / "run", tmp_path / "dag.py", started_s=1000.0)
    assert "was changed after the newest launch had begun" in export("run", "--rocrate", "crate")[2]
    assert "was changed after" in entities(tmp_path / "crate")["dag.py"]["description"]
    (tmp_path / "dag.py").unlink()
    assert "dag.py, the file of the DAG: No such file or directory; name it" in export("run", "--rocrate", "other")[2]


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """The context of RO-Crate 1.1: that of a later version, with the terms that changed as they were."""
    import rocrate

    text = (Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_text()
    path = tmp_path_factory.mktemp("context") / "context.jsonld"
    path.write_text(text.replace("https://bioschemas.org/terms/", "https://bioschemas.org/"))
    return path


@pytest.mark.long
def test_the_validator_accepts_crates(export, finished, tmp_path, context):
    python = os.environ.get("HANDOFF_TEST_ROC_VALIDATOR")
    if not python:
        missing("roc-validator (HANDOFF_TEST_ROC_VALIDATOR names a Python that has it)")
    write_mixed(tmp_path / "mixed")
    write_status(tmp_path / "mixed", status="stopped", exit_code=75, launch=1)
    assert (
        export(finished / "run", "--rocrate", "a", "--author", "A", "--license", "https://spdx.org/licenses/MIT")[0]
        == 0
    )
    assert export("mixed", "--rocrate", "b")[0] == 0
    for crate in ("a", "b"):
        ended = subprocess.run(
            [python, VALIDATE, crate, context], capture_output=True, text=True, timeout=120, env={"HOME": str(tmp_path)}
        )
        assert ended.stdout == "process-run-crate-0.5 passed\nworkflow-run-crate-0.5 passed\n", ended.stderr


# -- WfFormat ----------------------------------------------------------------------------------------------


def check_wfformat(path):
    """Check what the schema and WfCommons' own validator ask for; return the instance."""
    instance = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert instance["schemaVersion"] == "1.5"
    specification, execution = instance["workflow"]["specification"], instance["workflow"].get("execution")
    tasks = {task["id"]: task for task in specification["tasks"]}
    files = {file["id"]: file["sizeInBytes"] for file in specification["files"]}
    assert len(tasks) == len(specification["tasks"]) >= 1
    assert len(files) == len(specification["files"])
    for id, task in tasks.items():
        assert re.fullmatch(r"[0-9a-zA-Z\-_.]+", id)
        assert task["name"]
        assert all(id in tasks[each]["children"] for each in task["parents"])
        assert all(id in tasks[each]["parents"] for each in task["children"])
        assert {*task["inputFiles"], *task["outputFiles"]} <= files.keys()
    assert all(type(size) is int and size >= 0 for size in files.values())
    if execution is not None:
        machines = [machine["nodeName"] for machine in execution["machines"]]
        assert len(machines) == len(set(machines)) >= 1
        assert {call["id"] for call in execution["tasks"]} <= tasks.keys()
        assert {name for call in execution["tasks"] for name in call["machines"]} == set(machines)
        assert all(call["runtimeInSeconds"] >= 0 and call.get("coreCount", 1) >= 1 for call in execution["tasks"])
    return instance


def write_runs(directory):
    write_large(directory / "large", 2000)
    write_mixed(directory / "mixed")
    write_status(directory / "mixed", status="stopped", exit_code=75, launch=1)
    write_launch(directory / "never", ("run", about()), ("tasks", 0, [row("\x1b"), row("", "", [0])]))
    write_status(directory / "never", status="stopped", exit_code=75, launch=1)
    return ("large", "mixed", "never")


def test_wfformat_is_consistent(export, tmp_path):
    found = {}
    for name in write_runs(tmp_path):
        assert export(name, "--wfformat", f"{name}.json") == (0, f"{tmp_path}/{name}.json\n", "")
        found[name] = check_wfformat(tmp_path / f"{name}.json")
    mixed = found["mixed"]["workflow"]
    first = mixed["specification"]["tasks"][0]
    assert (first["name"], first["id"]) == ("load", "load_ID000000")
    assert len(mixed["specification"]["tasks"]) == 6
    assert len(mixed["execution"]["tasks"]) == 4
    assert mixed["execution"]["tasks"][0] == {
        "id": "load_ID000000", "runtimeInSeconds": 0.5, "command": {"program": "load"}, "coreCount": 1,
        "machines": ["node1"],
    }  # fmt: skip
    assert mixed["execution"]["executedAt"] == "2027-01-15T08:00:00.000+00:00"
    assert "execution" not in found["never"]["workflow"]
    assert len(found["large"]["workflow"]["execution"]["tasks"]) == 2000


@pytest.mark.long
def test_sizes_of_hosts_are_those_of_the_status(export, finished, tmp_path):
    assert export(finished / "run", "--wfformat", "run.json")[0] == 0
    instance = check_wfformat(tmp_path / "run.json")
    assert instance["runtimeSystem"]["name"] == "handoff_mpi"
    write_launch(tmp_path / "sized", ("run", about(1)), ("tasks", 0, [row("f")]), turn(1, (), [done(0, 1, 0, 1)]))
    rows = {"node2": {"cores": 8, "memory_mb": 16_000.5}, "node0": "x"}
    write_status(tmp_path / "sized", status="done", exit_code=0, launch=1, hosts=rows)
    assert export("sized", "--wfformat", "sized.json")[0] == 0
    machines = check_wfformat(tmp_path / "sized.json")["workflow"]["execution"]["machines"]
    assert machines == [
        {"nodeName": "node2", "system": "linux", "cpu": {"coreCount": 8}, "memoryInBytes": 16_000_500_000}
    ]


def test_the_schema_of_wfcommons_accepts_it(export, request, tmp_path):
    path = os.environ.get("HANDOFF_TEST_WFFORMAT_SCHEMA")
    if not path:
        pytest.skip("HANDOFF_TEST_WFFORMAT_SCHEMA names no schema of WfFormat 1.5, which no package has")
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(Path(path).read_text()))
    finished = request.getfixturevalue("finished")  # which takes seconds
    for name in (*write_runs(tmp_path), finished / "run"):
        assert export(name, "--wfformat", "instance.json")[0] == 0
        assert [error.message for error in validator.iter_errors(json.loads(Path("instance.json").read_text()))] == []


def test_names_and_times_are_as_the_formats_want_them():
    assert file_name(f"a b/{HOSTILE}").isascii()
    assert file_name("../..") == "..__.." or "/" not in file_name("../..")
    assert file_name("é\x00") == ""
    assert time_text(-5.0) == "1970-01-01T00:00:00.000+00:00"
    assert time_text(1e300).startswith("9999-12-31")


# -- what is wrong -----------------------------------------------------------------------------------------

WRONG = [
    (("run",), "nothing to export is named"),
    (("rum", "--wfformat", "x.json"), "did you mean run"),
    (("run", "--rocrate", "full"), "is not empty"),
    (("run", "--rocrate", "file"), "is not a directory"),
    (("run", "--rocrate", "missing/crate"), "No such file or directory"),
    (("run", "--rocrate", "a\0b"), "null"),
    (("run", "--wfformat", "full"), "it is a directory"),
    (("run", "--wfformat", "missing/x.json"), "No such file or directory"),
    (("run", "--wfformat", "a\0b"), "null"),
    (("run", "--rocrate", "crate", "--workflow", "missing.py"), "No such file or directory"),
    (("run", "--rocrate", "crate", "--workflow", "fifo"), "it is not a regular file"),
    (("run", "--rocrate", "crate", "--workflow", "full"), "it is not a regular file"),
]


@pytest.mark.parametrize(("words", "told"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_told_in_a_line(export, tmp_path, words, told):
    write_naming(tmp_path / "run", "")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    before = sorted(tmp_path.iterdir())
    code, out, err = export(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert sorted(tmp_path.iterdir()) == before


def test_without_the_library_nothing_is_made(export, tmp_path, monkeypatch):
    write_naming(tmp_path / "run", "")
    monkeypatch.setattr(ro_crate.importlib.util, "find_spec", lambda name: None)
    code, _, err = export("run", "--rocrate", "crate")
    assert (code, "pip install 'handoff_mpi[provenance]'" in err) == (2, True)
    assert export("run", "--wfformat", "x.json")[0] == 0


def test_an_empty_directory_is_taken_and_one_that_fills_is_left(export, tmp_path, monkeypatch):
    write_naming(tmp_path / "run", "")
    (tmp_path / "crate").mkdir()
    assert export("run", "--rocrate", "crate")[0] == 0
    monkeypatch.setattr(verb, "_refuse_existing", lambda path: None)
    code, _, err = export("run", "--rocrate", "crate")
    assert (code, "is not empty" in err) == (2, True)
    assert [each.name for each in tmp_path.iterdir() if "partial" in each.name] == []


@pytest.mark.parametrize("records", MORE_HOSTILE, ids=range(len(MORE_HOSTILE)))
def test_a_hostile_journal_costs_a_line_at_most(export, tmp_path, records):
    write_launch(tmp_path / "run", *records)
    write_status(tmp_path / "run", status="stopped", exit_code=75, launch=1, hosts=[3])
    (tmp_path / "run").chmod(0o777)
    code, _, err = export("run", "--wfformat", "x.json", "--rocrate", "crate")
    assert code in (0, 1, 2)
    assert err.count("\n") <= 2
    assert "Traceback" not in err
    if code == 0:
        check_wfformat(tmp_path / "x.json")
        assert "\x1b" not in "".join(path.read_text() for path in (tmp_path / "crate").iterdir())
