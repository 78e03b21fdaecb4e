"""The inputs of functions are decoded before anything starts; those that cannot be are refused, each fault once."""

from __future__ import annotations

import pytest

from handoff_mpi import Cluster, DAGError, Function, execute_local
from handoff_mpi.dag import DAG
from handoff_mpi.launch import dry_run
from handoff_mpi.worker.dry_run import Decoded

# Pieces that only rank 0 can load: a module of its own making. It is in no file.
PREAMBLE = """
import os, sys, threading, time, types
import handoff_mpi
from handoff_mpi import DAG, Function

made = types.ModuleType("made_up")
sys.modules["made_up"] = made
exec("class Thing:\\n  def __init__(self, a=None): self.a = a\\ndef code(*args): return 1", vars(made))

class Loads:
    def __init__(self, how, *args): self.how = how, args
    def __reduce__(self): return self.how

def fail(*args): raise ValueError("not here")
def free(*args, **kwargs): return 1
ITEMS = (each for each in "ab")
def reads(): return ITEMS
class Model:
    def __init__(self): self.x = threading.Lock()

dag = DAG("d")
def add(id, args=(), code=free, extra_args=(), **kwargs):
    return dag.add_function(Function(id, args, code, extra_args, kwargs, max_retries=0))
first = add("first", (), print, ["RUNS"])
"""
RUN = '\nif __name__ == "__main__":\n    handoff_mpi.execute(dag)\n'
WAYS = {
    "check": (0, ["-m", "handoff_mpi", "check", "dag.py"]),
    "one process": (0, ["-m", "handoff_mpi", "run", "--isolation", "process", "dag.py"]),
    "ranks": (3, ["-m", "handoff_mpi", "run", "--isolation", "rank", "dag.py"]),
    "children": (2, ["-m", "handoff_mpi", "run", "--isolation", "process", "dag.py"]),
    "script": (2, ["dag.py"]),
}
FAULTS = """
for i in range(500): add(("many", i), ["first"], free, [7, {"a": [made.Thing(i)]}])
add("code", (), made.code)
add("template", (), free, [[first, made.Thing(first)]])
add("raises", (), free, option=[Loads(fail)])
"""
UNSENDABLE = """
add("solve", (), free, [Model()])
for i in range(500): add(("many", i), ["first"], free, [7, {"a": [Model()]}])
for i in range(30): add(("code", i), (), reads)
add("generator", (), free, [(i for i in "ab")])
"""


@pytest.fixture
def start(mpirun, tmp_path):
    def begin(way, text, **options):
        (tmp_path / "dag.py").write_text(PREAMBLE + text + RUN)
        ranks, words = WAYS[way]
        return mpirun(ranks or 1, *words, **options)

    return begin


@pytest.mark.long
@pytest.mark.sample("check", "one process", "ranks", "script")
@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_decoded_elsewhere_is_refused_where_it_is(start, way):
    ended = start(way, FAULTS)
    assert ended.rc == (1 if way == "script" else 2), ended.err
    missing = "cannot decode it: ModuleNotFoundError: No module named 'made_up', inside"
    assert f"{missing} the code of 'code'\n" in ended.err
    assert f"{missing} the class of item 0 of item 'a' of argument 3 of ('many', 0) (and 499 others)" in ended.err
    assert f"{missing} the class of item 1 of argument 1 of 'template'" in ended.err
    assert "ValueError: not here, inside item 0 of argument option of 'raises'" in ended.err
    assert "4 problems" in ended.err
    assert "RUNS" not in ended.out


@pytest.mark.long
@pytest.mark.parametrize("way", ["check", "ranks"])
def test_what_cannot_be_encoded_is_refused_where_it_is(start, way):
    ended = start(way, UNSENDABLE)
    assert ended.rc == 2, ended.err
    fault = "cannot be sent: TypeError: cannot pickle '_thread.lock' object, inside"
    assert f"function 'solve': {fault} attribute x of argument 1 of 'solve'\n" in ended.err
    assert f"{fault} attribute x of item 0 of item 'a' of argument 3 of ('many', 0) (and 499 others)" in ended.err
    fault = "cannot be sent: TypeError: cannot pickle 'generator' object, inside"
    assert f"{fault} global ITEMS of the code of ('code', 0) (and 29 others)" in ended.err
    assert "inside argument 1 of 'generator'; pass a list of its items" in ended.err
    assert "4 problems" in ended.err


FINE = """
class OfAFile:
    def __reduce__(self): return read, ()
def read():
    with open("written.txt") as file: return file.read()
def write():
    with open("written.txt", "w") as file: file.write("x")
add("write", (), write)
add("read", ["write"], free, [OfAFile()])
class Picky:
    def __init__(self, number): self.number = number + 0
    def __reduce__(self): return Picky, (self.number,)
class Held:
    def __init__(self, value): self.value = value
    def __reduce__(self): return pick, (self.value,)
def pick(number): return Picky(number)
add("number", (), int, [3])
add("rebuilt from a value", (), free, [Held(handoff_mpi.Handle("number"))])
add("inline", (), free, [first]).id
add("array", (), free, [__import__("numpy").zeros(100_000)])
add("by name", (), os.path.join, ["a", "b"])
dag.add_function(Function(frozenset({1}), ["first"], free))
"""


@pytest.mark.long
@pytest.mark.sample("check", "ranks")
@pytest.mark.parametrize("way", ["check", "ranks", "children"])
def test_what_works_is_not_refused(start, way):
    ended = start(way, FINE)
    assert ended.rc == 0, ended.err
    assert "cannot" not in ended.err


@pytest.mark.long
def test_check_names_faults_of_what_fits_nowhere_here(start):
    ended = start("check", "dag.add_function(Function('a', (), made.code, cost={'gpu': 99}))\n")
    assert ended.rc == 2, ended.err
    assert "inside the code of 'a'" in ended.err


@pytest.mark.long
@pytest.mark.parametrize("how", ["os._exit, (7,)", "time.sleep, (1000,)"])
def test_check_names_what_ends_or_hangs_the_process(start, how, tmp_path):
    limit = "from handoff_mpi.worker import dry_run\nif len(sys.argv) > 1: dry_run.DECODE_TIMEOUT_S = 1.0\n"
    bad = f"class Bad:\n    def __reduce__(self): return {how}\n"
    ended = start("check", limit + bad + "for i in range(9): add(i)\nadd('bad', (), free, [Bad()])\n")
    assert ended.rc == 2, ended.err
    assert "function 'bad': cannot be sent: decoding it has " in ended.err


@pytest.mark.long
@pytest.mark.sample("children")
@pytest.mark.parametrize("way", ["ranks", "children"])
def test_a_rank_that_decoding_ends_refuses_no_run(start, way):
    ended = start(
        way, "class Bad:\n    def __reduce__(self): return os._exit, (7,)\nadd('bad', (), free, [Bad()])\n", ft=True
    )
    assert ended.rc == (7 if way == "ranks" else 1), ended.err  # the launcher has the last word
    assert "rank 1 has not decoded all that functions will be sent (" in ended.err
    assert "1 done, 1 failed of 2" in ended.err


def dag_of(code, *constants):
    dag = DAG("d")
    dag.add_function(Function("a", (), code, constants))
    return dag


def test_a_job_decodes_code_that_it_has_not_seen(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runs = []
    monkeypatch.setattr(
        dry_run, "collect_pieces", lambda plan, real=dry_run.collect_pieces: runs.append(1) or real(plan)
    )

    def one(*values):
        return values

    with Cluster() as cluster:
        for value in range(3):
            cluster.execute(dag_of(one, value, [value]))
        assert len(runs) == 1
        cluster.execute(dag_of(lambda x: x, 1))
        assert len(runs) == 2


class TwoHosts:
    """A job whose first rank lacks a module that the second has."""

    def __init__(self, is_slow=False):
        self.asked = []
        self._is_slow = is_slow

    def decode_on(self, rank, pieces, in_child):
        self.asked.append((rank, len(pieces)))
        if rank == 1:
            return Decoded(dict.fromkeys(range(len(pieces)), "ModuleNotFoundError"))
        return Decoded(trouble="it has not answered") if self._is_slow else Decoded()


@pytest.mark.parametrize("is_slow", [False, True])
def test_what_a_rank_of_another_host_may_decode_is_not_refused(is_slow, capfd):
    dag = dag_of(str, [1])
    plan = dry_run.Plan()
    plan.add(dag)
    job = TwoHosts(is_slow)
    dry_run.check_for_run(job, dag, plan, [(1, False), (2, False)])
    assert job.asked == [(1, 2), (2, 2)]
    with pytest.raises(DAGError, match="rank 1 cannot decode it: ModuleNotFoundError, inside the code of 'a'"):
        dry_run.check_for_run(job, dag, plan, [(1, False)])


class Refuses:
    is_open = False

    def __reduce__(self):
        return rebuild, ()


def rebuild():
    if not Refuses.is_open:
        raise OSError("closed")
    return 1


def test_what_was_refused_is_tried_again(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with Cluster() as cluster:
        with pytest.raises(DAGError, match=r"this process cannot decode it: OSError: closed, inside argument 1 of 'a'"):
            cluster.execute(dag_of(str, Refuses()))
        monkeypatch.setattr(Refuses, "is_open", True)
        assert cluster.execute(dag_of(str, Refuses()))["a"] == "1"


def test_so_much_is_tried(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("handoff_mpi.dag.dry_run.MAX_PIECES", 2)
    dag = DAG("d")
    for i in range(5):
        dag.add_function(Function(i, (), str, [[i]]))
    plan = dry_run.Plan()
    plan.add(dag)
    pieces = dry_run.collect_pieces(plan)
    assert len(pieces.pieces) == 2
    assert pieces.left_out == 4
    dry_run.check_in_child(dag, plan, None)
    assert "4 constants were not decoded in another process" in capfd.readouterr().err
    assert execute_local(dag)[4] == "[4]"


def find_problems(*functions):
    dag = DAG("d")
    for function in functions:
        dag.add_function(function)
    with pytest.raises(DAGError) as caught:
        dry_run.Plan().add(dag)
    return caught.value.problems


class Key:
    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"Key({self.name})"

    def __reduce__(self):
        raise TypeError("keys stay here")


def test_ids_that_cannot_be_sent_are_one_fault():
    found = find_problems(*[Function(Key(i), (), str) for i in range(50)])
    assert found == [
        "the id Key(0): cannot be sent: TypeError: keys stay here; use a string or a tuple (and 49 others)",
    ]


def test_what_an_inline_function_takes_is_said_to_be_its_own():
    inline = Function("constant", (), str, [Key(1)], type="inline")
    (found,) = find_problems(inline, Function("a", ["constant"], str))
    assert found == (
        "function 'a': cannot be sent: TypeError: keys stay here, "
        "inside argument 1 of the inline function 'constant' of 'a'"
    )


def make_pair():
    return {"a": [1, (each for each in "ab")]}


def test_the_part_of_a_result_that_cannot_be_sent_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    results = execute_local(dag_of(make_pair), max_retries=0, check=False)
    assert str(results.errors["a"]).endswith("cannot pickle 'generator' object, inside item 1 of item 'a'")
