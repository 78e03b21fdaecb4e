"""A call leaves the working directory, the environment and the umask of its process as they were."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

import handoff_mpi
from handoff_mpi import DAG, Argument, DAGError, DAGFailed, Function, execute_local, task
from handoff_mpi.dag.fingerprint import fingerprints
from handoff_mpi.worker.process_state import ProcessState, is_in_call


def look():
    umask = os.umask(0o022)
    os.umask(umask)
    return str(Path.cwd()), dict(os.environ), umask


def change(how, folder):
    if how == "chdir":
        os.chdir(folder)
    elif how == "deleted":
        os.chdir(tempfile.mkdtemp())
        shutil.rmtree(str(Path.cwd()))
    elif how == "variables":
        os.environ["HANDOFF_TEST_NEW"] = "new"
        os.environ["HOME"] = "changed"
        del os.environ["PATH"]
    elif how == "cleared":
        os.environ.clear()
    elif how == "replaced":
        os.environ = {"other": "mapping"}  # noqa: B003
    elif how == "behind":  # quicker than what is looked at by the clock alone
        os.environ._data[b"HOME"] = b"changed"
    elif how == "behind replaced":
        os.environ._data = {b"HOME": b"changed"}
    elif how == "bytes":
        os.environb[b"HOME"] = b"changed"
    elif how == "umask":
        os.umask(0o777)
    elif how == "raises":
        os.chdir(folder)
        os.umask(0o077)
        os.environ["HANDOFF_TEST_NEW"] = "new"
        raise ValueError
    elif how == "all":
        for each in ("chdir", "variables", "umask"):
            change(each, folder)


HOWS = ["chdir", "deleted", "variables", "cleared", "replaced", "behind", "behind replaced", "bytes", "umask"]
HOWS += ["raises", "all"]


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_what_a_call_changes_the_next_one_does_not_see(tmp_path, monkeypatch, isolation):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    dag = DAG("leaks")
    before = "before"
    dag.add_function(Function(before, (), look))
    names = [before]
    for how in HOWS:
        words = [how, str(tmp_path / "elsewhere")]
        dag.add_function(Function(how, (), change, words, max_retries=0, priority=-len(names)))
        dag.add_function(Function(f"after {how}", (), look, priority=-len(names) - 1))
        names += [how, f"after {how}"]
    here = str(Path.cwd())
    results = execute_local(dag, isolation=isolation, keep="all", check=False, slots=1, run_dir=tmp_path / "run")
    assert set(results.errors) == {"raises"}
    first = results[before]
    assert first[0] == str(tmp_path)
    for how in HOWS:
        directory, variables, umask = results[f"after {how}"]
        assert (directory, umask) == (first[0], first[2]), how
        assert variables == first[1], how
    assert str(Path.cwd()) == here


@pytest.mark.long
def test_functions_have_a_directory_and_variables_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relative").mkdir()
    (tmp_path / "absolute").mkdir()
    monkeypatch.setenv("HANDOFF_TEST_GONE", "there")
    dag = DAG("places")
    env = {"HANDOFF_TEST_A": "a", "HANDOFF_TEST_GONE": None}
    dag.add_function(Function("relative", (), look, cwd="relative", env=env))
    dag.add_function(Function("absolute", ["relative"], lambda _: look(), cwd=tmp_path / "absolute"))
    dag.add_function(Function("inline", (), lambda: str(Path.cwd()), type="inline"))
    dag.add_function(Function("consumer", ["inline"], lambda path: (path, str(Path.cwd())), cwd="relative"))
    dag.add_function(Function("codec", [Argument("relative", None, lambda *_: str(Path.cwd()))], str, cwd="absolute"))
    dag.add_function(Function("plain", ["absolute"], lambda _: look()))
    for isolation in ("rank", "process"):
        results = execute_local(dag, isolation=isolation, keep="all", run_dir=tmp_path / isolation)
        directory, variables, _ = results["relative"]
        assert directory == str(tmp_path / "relative")
        assert variables["HANDOFF_TEST_A"] == "a" and "HANDOFF_TEST_GONE" not in variables
        assert results["absolute"][0] == str(tmp_path / "absolute")
        assert results["consumer"] == (str(tmp_path / "relative"),) * 2
        assert results["codec"] == str(tmp_path / "absolute")
        directory, variables, _ = results["plain"]
        assert directory == str(tmp_path)
        assert "HANDOFF_TEST_A" not in variables and variables["HANDOFF_TEST_GONE"] == "there"


def test_a_directory_that_is_missing_fails_its_call_alone(tmp_path):
    dag = DAG("missing")
    dag.add_function(Function("missing", (), look, cwd=str(tmp_path / "nowhere"), max_retries=0))
    dag.add_function(Function("fine", (), look))
    with pytest.raises(DAGFailed) as caught:
        execute_local(dag, run_dir=tmp_path / "run")
    (id, error), *rest = caught.value.results.errors.items()
    assert (id, error.kind, rest) == ("missing", "FileNotFoundError", [])
    assert f"its cwd cannot be used: No such file or directory: '{tmp_path / 'nowhere'}'" in str(error)


@pytest.mark.long
def test_a_relative_directory_starts_from_where_the_run_was_started(handoff, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "away").mkdir()
    (tmp_path / "dag.py").write_text(
        "import os\n"
        "from handoff_mpi import DAG, task\n"
        "os.chdir('away')\n"
        "@task(cwd='sub', env={'HANDOFF_TEST_A': '1'})\n"
        "def where(): return os.getcwd(), os.environ['HANDOFF_TEST_A']\n"
        "with DAG('d') as dag: where()\n"
    )
    ended = handoff("run", "-n", "2", "--run-dir", "run", "dag.py")
    assert ended.rc == 0, ended.err
    assert handoff_mpi.load(tmp_path / "run")["where"] == (str(tmp_path / "sub"), "1")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"cwd": 3}, "cwd must be the path of a directory, not 3"),
        ({"cwd": ""}, "cwd must be the path of a directory, not ''"),
        ({"cwd": "a\0b"}, r"cwd must be the path of a directory, not 'a\x00b'"),
        ({"cwd": b"bytes"}, "cwd must be the path of a directory, not b'bytes'"),
        ({"env": ["A=1"]}, "env must be a mapping of names to values, not ['A=1']"),
        ({"env": {"A": 1}}, "env['A'] must be a string without NUL characters, or None, not 1"),
        ({"env": {"A": "\0"}}, r"env['A'] must be a string without NUL characters, or None, not '\x00'"),
        ({"env": {"": "1"}}, "env names '', which cannot be the name of a variable"),
        ({"env": {"A=B": "1"}}, "env names 'A=B', which cannot be the name of a variable"),
        ({"env": {1: "1"}}, "env names 1, which cannot be the name of a variable"),
        (
            {"cwd": "x", "type": "inline"},
            "an inline function is called where its consumer is",
        ),
    ],
)
def test_what_cannot_be_a_directory_or_a_variable_is_refused_at_once(options, problem):
    with pytest.raises(DAGError) as caught:
        dag = DAG("wrong")
        dag.add_function(Function("f", (), look, **options))
        dag.validate()
    assert f"function 'f': {problem}" in str(caught.value)


def test_both_count_in_the_fingerprint():
    def mark(**options):
        return fingerprints([Function("f", (), look, **options)]).of("f")

    plain = mark()
    marks = [mark(cwd="a"), mark(cwd="b"), mark(env={"A": "1"}), mark(env={"A": "2"}), mark(env={"A": None})]
    assert len({plain, *marks}) == 6
    assert mark(cwd=Path("a")) == marks[0]
    assert mark(env={"A": "1", "B": "2"}) == mark(env={"B": "2", "A": "1"})


def test_a_task_takes_them_as_options(tmp_path):
    with DAG("d") as dag:
        task(look).options(cwd=str(tmp_path), id="there")()
    assert execute_local(dag, run_dir=tmp_path / "run")["there"][0] == str(tmp_path)


def test_a_file_that_a_later_call_makes_has_the_mode_of_the_users_umask(tmp_path):
    def close():
        os.umask(0o777)

    def make(_):
        path = tmp_path / "made"
        path.touch()
        return stat.S_IMODE(path.stat().st_mode)

    umask = os.umask(0o027)
    try:
        dag = DAG("umask")
        dag.add_function(Function("close", (), close))
        dag.add_function(Function("make", ["close"], make))
        assert execute_local(dag, isolation="rank", run_dir=tmp_path / "run")["make"] == 0o640
    finally:
        os.umask(umask)


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_short_calls_are_looked_at_where_something_was_called_that_changes_the_process(tmp_path, monkeypatch, seconds):
    from handoff_mpi.worker import process_state

    monkeypatch.chdir(tmp_path)
    looks = []
    monkeypatch.setattr(process_state, "_directory_now", lambda: looks.append(1) or str(tmp_path))
    state = process_state.ProcessState()
    state.begin()
    state.restore(1.0)  # what was before counts no more
    for change in (None, lambda: os.chdir(tmp_path), lambda: os.environ.pop("HANDOFF_TEST_NEW", None)):
        os.environ["HANDOFF_TEST_NEW"] = "new"
        state.keep_variables()
        state.restore(1.0)
        looks.clear()
        if change is not None:
            change()
        state.restore(seconds)
        assert len(looks) == (seconds > 0 or change is not None)
    state.finish()
    assert os.environ.pop("HANDOFF_TEST_NEW") == "new"


def test_what_notes_changes_is_the_function_of_os_for_all_others():
    import pickle
    import posix

    assert os.chdir is posix.chdir and os.chdir.__name__ == "chdir"
    assert os.chdir in os.supports_fd
    assert pickle.loads(pickle.dumps(os.chdir)) is os.chdir
    with pytest.raises(FileNotFoundError):
        os.chdir("/there is no such directory")


def test_states_of_two_threads_may_end_in_any_order():
    first, second, third = ProcessState(), ProcessState(), ProcessState()
    for each in (first, second, third):
        each.begin()
    for each in (second, first, third):
        assert is_in_call()
        each.finish()
    assert not is_in_call()
