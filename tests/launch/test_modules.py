"""dag.py and scripts as modules: under any name, in any place, after any change."""

from __future__ import annotations

import sys

import pytest

import handoff_mpi
from handoff_mpi.launch.dag_file import load_dag_file
from handoff_mpi.python_path import ModuleName
from tests.conftest import mpirun_command, run_process

RANKS = [(), ("-n", "3"), ("-n", "3", "--isolation", "process")]

POOLS = """
import multiprocessing, pickle, sys
from handoff_mpi import DAG, task
class Model:
    def get(self): return helper(1)
def helper(x): return x + 1
@task
def pooled():
    assert pickle.loads(pickle.dumps(Model)) is Model and sys.modules[__name__].helper is helper
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map_async(helper, [1, 2]).get(30), type(pool.apply_async(Model).get(30)) is Model
with DAG("pools") as dag: task(print)(pooled())
"""


NAMES = ["class.py", "a.b.py", "with space-1.py", "naïve.py"]


@pytest.mark.parametrize("name", ["json.py", *[pytest.param(name, marks=pytest.mark.long) for name in NAMES]])
def test_a_file_may_have_any_name(handoff, tmp_path, name):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / name).write_text(POOLS)
    ended = handoff("run", f"files/{name}")
    assert (ended.rc, ended.out) == (0, "([2, 3], True)\n"), ended.err


@pytest.mark.long
def test_so_it_may_on_ranks_and_leaves_nothing_behind(handoff, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "files" / "json.py").write_text(POOLS)
    ended = handoff("run", "-n", "3", "files/json.py", env={"TMPDIR": str(tmp_path / "tmp")})
    assert (ended.rc, ended.out) == (0, "([2, 3], True)\n"), ended.err
    assert not list((tmp_path / "tmp").glob("handoff*"))


@pytest.mark.long
def test_a_file_that_hides_this_package_ends_a_pool_with_the_reason(handoff, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "handoff_mpi.py").write_text(POOLS)
    ended = handoff("run", "--max-retries", "0", "files/handoff_mpi.py")
    assert (ended.rc, ended.out) in ((0, "([2, 3], True)\n"), (1, "")), ended.err
    assert ended.rc == 0 or "cannot be executed" in ended.err


def test_a_file_that_cannot_be_executed_twice_ends_a_pool_with_its_reason(handoff, tmp_path):
    text = "import os, multiprocessing\nif multiprocessing.parent_process(): raise ValueError('only once')\n"
    (tmp_path / "only.once.py").write_text(text + POOLS)
    ended = handoff("run", "--max-retries", "0", "only.once.py")
    assert ended.rc == 1, ended.err
    assert "only.once.py cannot be executed: ValueError: only once" in ended.err


@pytest.mark.long
def test_a_symlink_has_the_directory_of_its_target_on_the_path(handoff, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    (tmp_path / "real" / "beside.py").write_text("VALUE = 5\n")
    (tmp_path / "real" / "target.py").write_text("import beside\n" + POOLS + "with dag: task(print)(beside.VALUE)\n")
    (tmp_path / "links" / "link.py").symlink_to("../real/target.py")
    for words in RANKS[:2]:
        ended = handoff("run", *words, "--fresh", "links/link.py")
        assert (ended.rc, sorted(ended.out.split("\n"))) == (0, ["", "([2, 3], True)", "5"]), ended.err


@pytest.fixture
def package(tmp_path):
    """A package whose module ``pkg.sub.dag`` has relative imports, within functions too."""
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    (tmp_path / "pkg" / "__init__.py").write_text("LEVEL = 1\n")
    (tmp_path / "pkg" / "sub" / "__init__.py").touch()
    (tmp_path / "pkg" / "sub" / "beside.py").write_text("def add(x): return x + 10\n")
    text = "from .beside import add\nfrom .. import LEVEL\n" + POOLS
    text += "@task\ndef relative(x):\n    from . import beside\n"
    text += "    return beside.add(x), add is beside.add, __package__\n"
    text += "with dag: task(print)(relative(LEVEL))\n"
    (tmp_path / "pkg" / "sub" / "dag.py").write_text(text)


@pytest.mark.long
@pytest.mark.sample("-m pkg.sub.dag:dag", "pkg/sub/dag.py")
@pytest.mark.parametrize("target", [["-m", "pkg.sub.dag"], ["pkg/sub/dag.py"], ["-m", "pkg.sub.dag:dag"]], ids=" ".join)
def test_relative_imports_work(handoff, tmp_path, package, target):
    words = ("-n", "3") if ":" in target[-1] else ()
    ended = handoff("run", *words, *target)
    assert ended.rc == 0, ended.err
    assert sorted(ended.out.splitlines()) == ["(11, True, 'pkg.sub')", "([2, 3], True)"]


@pytest.mark.long
def test_check_takes_a_module_too(handoff, package):
    assert handoff("check", "-m", "pkg.sub.dag").rc == 0
    ended = handoff("check", "-m", "pkg.sub.nowhere")
    assert (ended.rc, len(ended.err.splitlines())) == (2, 1), ended.err


@pytest.mark.parametrize("name", ["pkg.nowhere", "nowhere", "json.decoder.nowhere", "pkg.sub.broken", "sys", "", "..x"])
def test_a_module_that_cannot_be_found_is_refused(monkeypatch, tmp_path, package, name):
    (tmp_path / "pkg" / "sub" / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(handoff_mpi.UsageError, match=r"module|line 1: ZeroDivisionError"):
        load_dag_file(ModuleName(name), [])


def test_a_relative_import_without_a_package_is_refused(handoff, tmp_path):
    (tmp_path / "dag.py").write_text("from . import beside\n" + POOLS)
    ended = handoff("run", "dag.py")
    assert (ended.rc, len(ended.err.splitlines())) == (2, 1), ended.err
    assert "attempted relative import" in ended.err


@pytest.mark.long
def test_helpers_may_import_the_file(handoff, tmp_path):
    helpers = "def scale(x):\n    import main_file\n    return x * main_file.SCALE, main_file.Model().kind\n"
    (tmp_path / "helpers.py").write_text(helpers)
    text = "import os, helpers\nfrom handoff_mpi import DAG, task\nSCALE = 3\nclass Model: kind = 'model'\n"
    text += "open('executed', 'a').write('x')\nwith DAG('d') as dag: task(print)(task(helpers.scale)(2))\n"
    (tmp_path / "main_file.py").write_text(text)
    for words in RANKS[:2]:
        ended = handoff("run", *words, "--fresh", "main_file.py")
        assert (ended.rc, ended.out) == (0, "(6, 'model')\n"), ended.err


STATE = """
import handoff_mpi, sys
from handoff_mpi import DAG, Function, task
table, opened = None, {}
lock = None
class Model:
    made = 0
    def __init__(self): Model.made += 1
def setup(rank):
    global table, lock
    import threading
    table, lock = [rank] * 3, threading.Lock()
    opened["file"] = open(__file__)
@task
def look(before):
    with lock: opened["file"].readline()
    return type(table).__name__, len(table), Model().made >= 1
with DAG("state") as dag: print_ = task(print); print_(look(1)); print_(look(2))
def build(args):
    assert table is None and not opened and Model.made == 0
    return dag
"""


@pytest.mark.long
@pytest.mark.sample("here", "children")
@pytest.mark.parametrize("words", RANKS, ids=["here", "ranks", "children"])
def test_what_setup_and_functions_change_stays_in_their_process(handoff, tmp_path, words):
    (tmp_path / "state.py").write_text(STATE)
    ended = handoff("run", *words, "--run-dir", "run", "state.py:build")
    assert (ended.rc, ended.out) == (0, "('list', 3, True)\n" * 2), ended.err
    resumed = handoff("run", *words, "--run-dir", "run", "state.py:build")
    assert "4 of 4 functions are done" in resumed.err


AGAIN = """
import sys
import handoff_mpi
from handoff_mpi import DAG, Function

FIRST = '''
scale, config = 2, {"a": 1}
class Model:
    kind = "old"
    def get(self): return scale, config["a"], helper()
def helper(): return "old helper"
def f(model=None): return Model().get(), Model.kind, isinstance(model, (Model, type(None))), model and model.get()
def count(): config["calls"] = config.get("calls", 0) + 1; return config["calls"]
'''
SECOND = '''
scale = 3
config["a"] = 2
class Model:
    kind = "new"
    def get(self): return scale, config["a"], helper()
def helper(): return "new helper"
'''
def run(cluster):
    dag = DAG()
    dag.add_function(Function("f", (), f))
    dag.add_function(Function("g", (), f, [Model()]))
    dag.add_function(Function("counts", (), count))
    results = cluster.execute(dag, isolation=sys.argv[1])
    assert isinstance(results["g"], tuple)
    return results["f"], results["g"]

exec(FIRST, globals())
with handoff_mpi.Cluster() as cluster:
    if cluster:
        old = run(cluster)
        assert old[0] == ((2, 1, "old helper"), "old", True, None), old
        assert old[1][3] == (2, 1, "old helper"), old
        assert run(cluster) == old
        exec(SECOND, globals())
        new = run(cluster)
        assert new[0] == ((3, 2, "new helper"), "new", True, None), new
        assert new[1] == ((3, 2, "new helper"), "new", True, (3, 2, "new helper")), new
        print("new")
"""


@pytest.mark.long
@pytest.mark.sample("1-rank", "3-process")
@pytest.mark.parametrize(("ranks", "isolation"), [(1, "rank"), (3, "rank"), (3, "process")])
def test_what_is_defined_again_counts(tmp_path, ranks, isolation):
    """As a notebook does it: between two runs of a cluster."""
    (tmp_path / "again.py").write_text(AGAIN)
    launcher = mpirun_command(ranks) if ranks > 1 else []
    ended = run_process([*launcher, sys.executable, "again.py", isolation], tmp_path)
    assert (ended.rc, ended.out) == (0, "new\n"), ended.err


def test_two_files_of_one_name_are_two_modules(in_process, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        text = f"from handoff_mpi import DAG, task\nclass Model: kind = '{name}'\n@task\ndef f(): return Model()\n"
        text += "@task\ndef g(m): return m.kind, isinstance(m, Model)\nwith DAG('d') as dag: g(f())\n"
        (tmp_path / name / "twin_file.py").write_text(text)
    found = []
    for name in ("one", "two", "one"):
        dag = load_dag_file(str(tmp_path / name / "twin_file.py"), []).build()
        found.append(handoff_mpi.execute_local(dag)["g"])
    assert found == [("one", True), ("two", True), ("one", True)]


@pytest.mark.long
def test_a_value_is_of_the_class_of_the_file_as_it_is_now(handoff, tmp_path):
    """Also where an earlier launch has written it, in which the text was another one."""
    text = "from handoff_mpi import DAG, task\nclass Model:\n    def get(self): return 1\n"
    text += "@task\ndef f(): return Model()\n@task\ndef g(m, n): print(m.get(), isinstance(m, Model), n)\n"
    text += "m = None\nwith DAG('d') as dag: m = f(); g(m, 1)\n"
    (tmp_path / "now.py").write_text(text)
    words = ("run", "-n", "3", "--checkpoint", "all", "--keep", "all", "--run-dir", "run", "now.py")
    assert handoff(*words).out == "1 True 1\n"
    (tmp_path / "now.py").write_text("# a comment\n" + text + "with dag: g(m, 2)\n")
    ended = handoff(*words)
    assert (ended.rc, ended.out) == (0, "1 True 2\n"), ended.err


HOSTILE = {
    "deletes its own names": "del helper2\n",
    "has replaced itself in sys.modules": "import sys, types\nsys.modules[__name__] = types.SimpleNamespace(a=1)\n",
    "has removed itself": "import sys\ndel sys.modules[__name__]\n",
    "has a name of its own": "__name__ = 'another'\n",
    "has no file": "del __file__\n",
    "has a module-level getattr": "def __getattr__(name): raise RuntimeError(name)\n",
    "has objects that lie": "class Liar:\n    def __getattr__(self, name): return self\nliar = Liar()\n",
    "has huge globals": "huge = [bytearray(1 << 20)] * 4000\n",
    "has what cannot be pickled": "opened = open('/dev/null'); gen = (x for x in ())\n",
}


def hostile(tmp_path, what):
    text = "from handoff_mpi import DAG, Function\ndef helper(): return 41\ndef helper2(): return 1\n"
    text += "class Model:\n    def get(self): return helper()\nf2 = helper2\ndef f(): return Model()\n"
    text += "def g(m): return m.get() + 1\n"
    text += "dag = DAG('d')\ndag.add_function(Function('f', (), f)); dag.add_function(Function('g', ['f'], g))\n"
    text += "dag.add_function(Function('h', (), f2)); dag.add_function(Function('p', ['g'], print))\n"
    path = tmp_path / f"hostile_{what.replace(' ', '_')}.py"
    path.write_text(text + HOSTILE[what])
    return path


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_that(in_process, tmp_path, what):
    results = handoff_mpi.execute_local(load_dag_file(str(hostile(tmp_path, what)), []).build(), keep="all")
    assert (results["g"], results["h"]) == (42, 1)


@pytest.mark.long
@pytest.mark.sample("has replaced itself in sys.modules")
@pytest.mark.parametrize("what", ["has replaced itself in sys.modules", "has a name of its own", "has no file"])
def test_so_it_is_on_ranks_with_a_file_that(handoff, tmp_path, what):
    ended = handoff("run", "-n", "3", hostile(tmp_path, what))
    assert (ended.rc, ended.out) == (0, "42\n"), ended.err


SEND = """
import pickle, sys
from handoff_mpi.carried_modules import sources_here
from handoff_mpi.serialization import encode_code
from handoff_mpi.launch.dag_file import load_dag_file
dag = load_dag_file(sys.argv[1], []).build()
pickle.dump((sources_here(), encode_code(dag["pooled"].code)), open("sent", "wb"))
"""
RECEIVE = """
import inspect, pickle
from handoff_mpi.call_modules import copies_entered
from handoff_mpi.serialization import decode_code
from handoff_mpi.module_files import take_sources
if __name__ == "__main__":
    sources, blob = pickle.load(open("sent", "rb"))
    take_sources(sources)
    with copies_entered():
        code = decode_code(blob)
        print(code(), inspect.getsource(code).count("helper"))
"""


@pytest.mark.parametrize("name", ["lost_file.py"])
def test_a_host_without_the_file_has_its_text(tmp_path, name):
    (tmp_path / name).write_text(POOLS)
    (tmp_path / "receive.py").write_text(RECEIVE)
    sent = run_process([sys.executable, "-c", SEND, name], tmp_path)
    assert sent.rc == 0, sent.err
    (tmp_path / name).unlink()
    ended = run_process([sys.executable, "receive.py"], tmp_path)
    assert (ended.rc, ended.out) == (0, "([2, 3], True) 3\n"), ended.err


@pytest.mark.long
def test_a_process_that_has_imported_the_file_loads_values_of_its_own_classes(handoff, tmp_path):
    text = "from handoff_mpi import DAG, task\nclass Model: pass\n@task\ndef make(): return Model()\n"
    (tmp_path / "imported.py").write_text(text + "with DAG('d') as dag: make()\n")
    assert handoff("run", "-n", "3", "--run-dir", "run", "imported.py").rc == 0
    program = "import handoff_mpi{}; model = handoff_mpi.load('run')['make']; print(type(model).__module__{})"
    for more in (("", ""), (", imported", ", isinstance(model, imported.Model)")):
        ended = run_process([sys.executable, "-c", program.format(*more)], tmp_path)
        assert (ended.rc, ended.out.split()[:1]) == (0, ["imported"]), ended.err
    assert ended.out == "imported True\n"


MAIN = """
import multiprocessing, pickle, sys
import handoff_mpi
from handoff_mpi import DAG, Function
class Model:
    def get(self): return helper(1)
def helper(x): return x + 1
def pooled(model):
    assert isinstance(model, Model) and pickle.loads(pickle.dumps(Model)) is Model
    if __package__ == "pkg": from . import beside
    if "__file__" not in globals(): return 2  # nor could a pool start there from the script itself
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map_async(helper, [1]).get(30)[0]
if __name__ == "__main__":
    dag = DAG()
    dag.add_function(Function("p", (), pooled, [Model()]))
    dag.add_function(Function("m", (), Model))
    results = handoff_mpi.execute(dag, isolation=sys.argv[2], keep="all", results_on="all", max_retries=0)
    print(results["p"], isinstance(results["m"], Model), sys.modules["__main__"].Model is Model)
"""


@pytest.mark.long
@pytest.mark.sample("module-process", "stdin-rank")
@pytest.mark.parametrize("isolation", ["rank", "process"])
@pytest.mark.parametrize("way", ["module", "stdin"])
def test_a_script_is_main_however_it_is_started(tmp_path, way, isolation):
    (tmp_path / "pkg").mkdir()
    for name, text in (("__init__", ""), ("beside", ""), ("script", MAIN)):
        (tmp_path / "pkg" / f"{name}.py").write_text(text)
    if way == "module":
        command = [*mpirun_command(2), sys.executable, "-m", "pkg.script", way, isolation]
    else:
        command = ["sh", "-c", f"{sys.executable} - {way} {isolation} < pkg/script.py"]
    ended = run_process(command, tmp_path)
    assert (ended.rc, ended.out) == (0, "2 True True\n" * (2 if way == "module" else 1)), ended.err


NESTED = """
import multiprocessing, sys
import handoff_mpi
from handoff_mpi import DAG, task
def helper(x): return x
@task(max_retries=0)
def pooled():
    open("called", "a").write("x")
    with multiprocessing.get_context("spawn").Pool(1) as pool: return pool.map_async(helper, [1]).get(3)
with DAG("inner") as dag: pooled()
handoff_mpi.execute(dag, check=False, run_dir=False)
"""


@pytest.mark.long
def test_a_file_that_runs_a_dag_at_its_top_does_not_run_it_in_its_pools(handoff, tmp_path):
    (tmp_path / "nested.py").write_text(NESTED)
    ended = handoff("run", "nested.py")
    assert ended.rc == 1, ended.err
    assert "nested.py, line 11: a process that multiprocessing has started would run the DAG again" in ended.err
    assert (tmp_path / "called").read_text() == "xx"


@pytest.mark.long
@pytest.mark.sample("rank")
@pytest.mark.parametrize("words", RANKS[1:], ids=["rank", "child"])
def test_the_arguments_of_the_command_are_those_of_a_function_too(handoff, tmp_path, words):
    text = "import sys\nfrom handoff_mpi import DAG, task\n@task\ndef show(): print(sys.argv[-1])\n"
    (tmp_path / "words.py").write_text(text + "def build(args):\n    with DAG('d') as dag: show()\n    return dag\n")
    ended = handoff("run", *words, "words.py", "--", "--depth", "3 4")
    assert (ended.rc, ended.out) == (0, "3 4\n"), ended.err


WITHIN = """
import handoff_mpi, pickle, sys
from handoff_mpi import DAG, Function
class Model: made = 0
def inner(x):
    Model.made += 1
    return pickle.loads(pickle.dumps(Model)) is Model and x
def outer(n):
    dag = DAG()
    for i in range(n): dag.add_function(Function(i, (), inner, [i]))
    results = handoff_mpi.execute_local(dag, keep="all", run_dir=False)
    found = [results[i] for i in range(n)]
    return found, pickle.loads(pickle.dumps(Model)) is Model, sys.modules[__name__].Model is Model
dag = DAG("within")
dag.add_function(Function("outer", (), outer, [3]))
dag.add_function(Function("show", ["outer"], print))
if __name__ == "__main__":
    results = handoff_mpi.execute(dag, run_dir=False)
    assert sys.modules[__name__].Model is Model and Model.made == 0
"""


@pytest.mark.long
@pytest.mark.parametrize("way", ["here", "ranks", "script"])
def test_a_function_may_run_a_dag_itself(tmp_path, way):
    (tmp_path / "within.py").write_text(WITHIN)
    run = [sys.executable, "-m", "handoff_mpi", "run", "within.py"]
    commands = {"here": run, "ranks": [*run, "-n", "2"], "script": [sys.executable, "within.py"]}
    ended = run_process(commands[way], tmp_path)
    assert (ended.rc, ended.out) == (0, "([False, 1, 2], True, True)\n".replace("False", "0")), ended.err
