"""Calls that draw from the global generators draw the same numbers in each run, wherever they run."""

from __future__ import annotations

import random
import sys
import threading

import numpy as np
import pytest

from handoff_mpi import DAG, Argument, Function, current_task, execute_local
from handoff_mpi.worker import randomness
from handoff_mpi.worker.call_spec import CallSpec
from handoff_mpi.worker.calls import CallRunner
from handoff_mpi.worker.draws import NONE, NUMPY, RANDOM, UNKNOWN
from handoff_mpi.worker.randomness import GlobalGenerators, noting_seeds, seeded_by_setup

IDS = [*range(8)]


def draw_both():
    return random.random(), float(np.random.rand())


def draw_in_module():
    return random.random(), random.Random(current_task().seed).random()


def fail_once(folder):
    drawn = draw_both()
    flag = folder / f"{current_task().attempt}-{drawn!r}"
    flag.touch()
    if current_task().attempt < 3:
        raise ValueError
    return len({each.name.partition("-")[2] for each in folder.iterdir()})


@pytest.fixture
def run(tmp_path):
    """Run functions in this process and return their values."""

    def execute(code, ids=IDS, isolation="rank", **options):
        dag = DAG("drawing")
        for id in ids:
            dag.add_function(Function(id, (), code))
        results = execute_local(dag, isolation=isolation, keep="all", **options)
        return [results[id] for id in ids]

    return execute


@pytest.fixture(autouse=True)
def in_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_runs_agree_and_calls_differ(run, isolation):
    first = run(draw_both, isolation=isolation)
    assert run(draw_both, IDS[::-1], isolation)[::-1] == first
    for drawn in zip(*first, strict=True):
        assert len(set(drawn)) == len(IDS)


@pytest.mark.long
def test_children_draw_what_ranks_draw(run):
    assert run(draw_both) == run(draw_both, isolation="process")


def test_a_call_draws_what_a_generator_with_its_seed_draws(run):
    assert all(drawn == expected for drawn, expected in run(draw_in_module))


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_every_attempt_draws_the_same(tmp_path, isolation):
    (tmp_path / "drawn").mkdir()
    dag = DAG("retries")
    dag.add_function(Function("f", (), fail_once, [tmp_path / "drawn"]))
    assert execute_local(dag, isolation=isolation)["f"] == 1


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_without_seeds_calls_draw_as_they_come(run, isolation):
    assert run(draw_both, isolation=isolation, seed=False) != run(draw_both, isolation=isolation, seed=False)


def test_the_generators_of_the_caller_are_restored(run):
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), float(np.random.rand()), random.gauss(0, 1), float(np.random.normal())
    random.seed(3)
    np.random.seed(3)
    run(draw_both)
    first = random.random(), float(np.random.rand())
    with pytest.raises(Exception, match="division"):
        run(lambda: random.random() / 0, max_retries=0)
    assert (*first, random.gauss(0, 1), float(np.random.normal())) == expected


def test_inline_functions_and_codecs_are_part_of_the_call():
    def build():
        dag = DAG("inline")
        inline = dag.add_function(Function("i", (), random.random, type="inline"))
        dag.add_function(Function("f", [inline], lambda x: (x, random.random())))
        dag.add_function(Function("g", [Argument("f")], lambda x: (x, random.random())))
        return dag

    first, second = (execute_local(build(), keep="all").values for _ in range(2))
    assert dict(first) == dict(second)
    assert len(set(first["f"])) == 2


def spec(code, caller, id="f"):
    caller.learn([(0, code)], None)
    return CallSpec(id, 1, ((0,), 0, None, ()), [], 1.0, ())


def test_calls_that_draw_nothing_are_not_looked_at_again(monkeypatch):
    from handoff_mpi.serialization import encode_code

    looked = []
    find = randomness._finder.find
    monkeypatch.setattr(randomness._finder, "find", lambda code: looked.append(code) or find(code))
    monkeypatch.setattr(random, "seed", lambda seed: pytest.fail("it was seeded"))
    caller = CallRunner(0, "run")
    call = spec(encode_code(lambda: 1), caller)
    for _ in range(3):
        assert caller.call(call).status == 0
    assert len(looked) == 1


def test_numpy_is_not_imported_for_it(tmp_path):
    import subprocess

    program = (
        "import random, sys\n"
        "from handoff_mpi import DAG, Function, execute_local\n"
        "dag = DAG('d')\n"
        "dag.add_function(Function('f', (), lambda: random.random()))\n"
        "def late():\n"
        "    import not_loaded_yet\n"
        "dag.add_function(Function('g', (), lambda: late, max_retries=0))\n"
        "execute_local(dag)\n"
        "print('numpy' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, check=True).stdout == b"False\n"


def test_a_generator_of_numpy_that_cannot_be_seeded_fails_no_call(run):
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        assert len(run(draw_both)) == len(IDS)
    finally:
        np.random.set_bit_generator(before)


def test_a_run_within_a_call_leaves_its_generators_alone(run):
    def nested():
        before = random.random()
        dag = DAG("inner")
        dag.add_function(Function("inner", (), draw_both))
        execute_local(dag)
        own = random.Random(current_task().seed)
        return (before, random.random()) == (own.random(), own.random())

    assert run(nested, ids=["outer"]) == [True]


def test_runs_beside_one_another_restore_what_they_found():
    state = random.getstate()
    beside = [GlobalGenerators(True) for _ in range(3)]
    for seed, generators in enumerate(beside):
        generators.seed(RANDOM, seed)
    for generators in beside:
        generators.restore()
    assert random.getstate() == state


# -- what setup(rank) seeds ---------------------------------------------------------------------------


def seeds_random(rank):
    random.seed(rank)


def seeds_numpy(rank):
    np.random.seed(rank)


def seeds_through_a_helper(rank):
    seeds_random(rank)
    seeds_numpy(rank)


def restores_a_state(rank):
    random.setstate(random.Random(rank).getstate())


def draws(rank):
    random.random(), np.random.rand()


def has_its_own(rank):
    return None if random.Random(rank).random() < 2 else np.random.default_rng(rank)


@pytest.mark.parametrize(
    ("setup", "seeded"),
    [
        (seeds_random, RANDOM),
        (seeds_numpy, NUMPY),
        (seeds_through_a_helper, RANDOM | NUMPY),
        (restores_a_state, RANDOM),
        (draws, NONE),
        (has_its_own, NONE),
    ],
)
def test_what_setup_seeds_is_noted(setup, seeded):
    states = random.getstate(), np.random.get_state()
    try:
        with noting_seeds(setup):
            setup(12345)
        assert seeded_by_setup() == seeded
    finally:
        with noting_seeds(draws):
            pass
        random.setstate(states[0])
        np.random.set_state(states[1])


def test_what_setup_has_seeded_is_left_alone():
    state = random.getstate()
    generators = GlobalGenerators(True, RANDOM)
    which = generators.drawn_by([draw_both])
    generators.seed(which, 7)
    assert (which, random.getstate()) == (NUMPY, state)
    generators.seed(UNKNOWN | RANDOM, 7)
    generators.restore()


@pytest.mark.long
def test_threads_that_draw_beside_a_run_disturb_nothing_else(run):
    end = threading.Event()
    thread = threading.Thread(target=lambda: [random.getrandbits(3) for _ in iter(end.is_set, True)])
    thread.start()
    try:
        assert len(run(draw_both)) == len(IDS)
    finally:
        end.set()
        thread.join()
