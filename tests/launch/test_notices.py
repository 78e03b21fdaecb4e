"""A line names the settings that the top of dag.py made on rank 0 alone, with the remedy."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import pytest

from handoff_mpi.launch.top_level import TopLevel
from tests.conftest import mpirun_command, run_process

END = """
from handoff_mpi import DAG, Function
dag = DAG("d")
dag.add_function(Function("f", (), f if "f" in globals() else abs, () if "f" in globals() else [-1]))
"""


LIBRARY = """
import logging, os, random, warnings
os.environ["LIBRARY"] = "1"
logging.getLogger("library").addHandler(logging.NullHandler())
warnings.simplefilter("error", BytesWarning)
random.random()
"""


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Run dag.py and return what is said of it, without the beginning of the line."""
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "library.py").write_text(LIBRARY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), *sys.path]))

    def run(text, *words, ranks=1, script=False, files=()):
        for name, content in dict(files).items():
            (tmp_path / name).write_text(textwrap.dedent(content))
        end = END + ("import handoff_mpi\nhandoff_mpi.execute(dag)\n" if script else "")
        (tmp_path / "dag.py").write_text(textwrap.dedent(text) + end)
        program = ["dag.py"] if script else ["-m", "handoff_mpi", "run", *words, "dag.py"]
        launcher = mpirun_command(ranks) if ranks > 1 else []
        ended = run_process([*launcher, sys.executable, *program], tmp_path, 60)
        assert ended.rc == 0, ended.err
        lines = [line.removeprefix("handoff: ") for line in ended.err.splitlines() if line.startswith("handoff: ")]
        assert len(set(lines)) == len(lines)
        return [line for line in lines if not line.startswith(("DAG ", "this MPI", "20", "files: ", "to resume: "))]

    return run


CHANGES = """
import logging, os, random, warnings, sys
import numpy as np
os.environ["MINE"] = "1"
logging.basicConfig(level=logging.INFO)
warnings.simplefilter("ignore")
sys.setrecursionlimit(5000)
"""
ALL = "os.environ['MINE'], the recursion limit, the logging level, logging handlers and warnings filters"
SETUP = """
def setup(rank):
    logging.basicConfig(level=logging.INFO)
    os.environ["MINE"] = "1"
"""


@pytest.mark.long
def test_settings_of_rank_0_alone_are_said_on_ranks(said):
    remedy = "define setup(rank) to do it on every rank"
    assert said(CHANGES, ranks=2) == [f"dag.py set {ALL} on rank 0 alone; {remedy}"]


@pytest.mark.long
def test_what_setup_does_is_not_said(said):
    rest = "the recursion limit and warnings filters on rank 0 alone; have setup(rank) do it on every rank"
    assert said(CHANGES + SETUP, ranks=2) == [f"dag.py set {rest}"]


@pytest.mark.long
def test_nothing_is_said_in_one_process_or_by_a_script(said):
    assert said(CHANGES) == []
    assert said(CHANGES, ranks=2, script=True) == []


@pytest.mark.long
def test_children_of_one_process_are_told_apart(said):
    words = ALL.removeprefix("os.environ['MINE'], ")
    remedy = "define setup(rank) to do it in every child process"
    assert said(CHANGES, "--isolation", "process") == [f"dag.py set {words} in this process alone; {remedy}"]


@pytest.mark.long
def test_what_libraries_and_used_modules_set_on_import_is_not_said(said):
    text = """
        import library, numpy, used, quiet
        from logging import getLogger
        getLogger("mine")
        numpy.random.rand()
        def f(): return used.value()
    """
    sets = "import os, logging\nos.environ['{}'] = '1'\nlogging.getLogger('x').setLevel(10)\ndef value(): return 1\n"
    files = {"used.py": "import behind\n" + sets.format("USED"), "behind.py": sets.format("BEHIND"), "quiet.py": ""}
    assert said(text, ranks=2, files=files) == []


@pytest.mark.long
def test_what_a_module_that_no_function_uses_sets_is_said(said):
    what = "settings, which dag.py imports and no function uses, set os.environ['MINE']"
    lines = said("import settings\n", ranks=2, files={"settings.py": "import os, library\nos.environ['MINE'] = '1'\n"})
    assert lines == [f"{what} on rank 0 alone; import it in setup(rank)"]


# -- generators ---------------------------------------------------------------------------------------

GENERATORS = """
import random
import numpy as np
RNG, other, unused = np.random.default_rng(0), random.Random(1), random.Random(2)
def helper(): return other.random()
def f(): return float(RNG.random()) + helper()
"""


@pytest.mark.long
@pytest.mark.parametrize("script", [False, True], ids=["dag.py", "script"])
def test_generators_made_at_the_top_are_said(said, script):
    (line,) = said(GENERATORS, ranks=2, script=script)
    file = "the script" if script else "dag.py"
    made = f"are generators made at the top of {file}: every rank draws the same numbers"
    assert sorted(line.partition(" are ")[0].split(" and ")) == ["RNG", "other"]
    use = "use numpy.random.default_rng(current_task().seed) or random.Random(current_task().seed) in the function"
    assert line.endswith(f"{made}; {use}")


@pytest.mark.long
def test_they_are_not_in_one_process_nor_are_those_that_no_function_uses(said):
    assert said(GENERATORS) == []
    assert said("import random\nRNG = random.Random(1)\ndef f(): return 1\n", "--isolation", "process") == []


# -- seeds --------------------------------------------------------------------------------------------

SEEDED = "import random\nrandom.seed(3)\nDATA = random.random()\ndef f(): return random.random()\n"
UNUSED = "import random\nrandom.seed(3)\ndef f(): return 1\n"
DRAWN = "import random\nDATA = random.random()\ndef f(): return random.random()\n"
BY_SETUP = "import random\ndef setup(rank): random.seed(rank)\ndef f(): return random.random()\n"
NO_EFFECT = "dag.py seeds random, but calls that draw from it are seeded each from its id; "
NO_EFFECT += "seed in setup(rank) or use --no-seed"
OF_SETUP = "setup(rank) seeds random, so calls that draw from it are not seeded each from its id: "
OF_SETUP += "what they draw depends on their rank and their order"


@pytest.mark.parametrize(
    ("text", "words", "lines"),
    [
        (SEEDED, (), [NO_EFFECT]),
        pytest.param(SEEDED, ("--no-seed",), [], marks=pytest.mark.long),
        pytest.param(UNUSED, (), [], marks=pytest.mark.long),
        pytest.param(DRAWN, (), [], marks=pytest.mark.long),
        (BY_SETUP, (), [OF_SETUP]),
        pytest.param(BY_SETUP, ("--no-seed",), [], marks=pytest.mark.long),
    ],
)
def test_seeds_are_said_where_calls_draw(said, text, words, lines):
    assert said(text, *words) == lines


@pytest.mark.long
def test_a_seed_on_rank_0_alone_is_said_if_calls_are_not_seeded(said):
    remedy = "define setup(rank) to do it on every rank"
    assert said(SEEDED, "--no-seed", ranks=2) == [f"dag.py seeds random on rank 0 alone; {remedy}"]


@pytest.mark.long
def test_seeds_of_setup_win(said):
    text = BY_SETUP + "def f(): assert random.random() == random.Random(0).random()\n"
    assert said(text) == [OF_SETUP]
    assert said(text, "--isolation", "process") == [OF_SETUP]


# -- what is noticed ----------------------------------------------------------------------------------


CASES = {
    "import os; os.environ.update(A='1', B='2')": "os.environ['A'] and os.environ['B']",
    "import os; os.environ.pop('HOME')": "os.environ['HOME']",
    "import os; os.environ.update(dict.fromkeys('ABCDE', '1'))": (
        "os.environ['A'], os.environ['B'], os.environ['C'] and 2 more of os.environ"
    ),
    "import os; os.environ['OMP_NUM_THREADS'] = '3'": "",  # calls have that of their claim
    "import os; os.chdir('..')": "the working directory",
    "import logging; logging.getLogger('mine').setLevel(10)": "the logging level",
    "import logging; logging.getLogger('mine').addHandler(logging.NullHandler())": "logging handlers",
    "import logging; logging.disable()": "the logging level",
    "import warnings; warnings.filterwarnings('error', module='x')": "warnings filters",
    "import locale; locale.setlocale(locale.LC_ALL, 'C.UTF-8')": "the locale",
    "import decimal; decimal.getcontext().prec = 5": "the decimal context",
    "import decimal; decimal.Decimal(1) / 3": "",
    "import multiprocessing; multiprocessing.set_start_method('spawn')": "the start method of multiprocessing",
    "import multiprocessing; multiprocessing.Lock()": "",
    "import numpy; numpy.seterr(all='raise')": "numpy's error handling",
    "import numpy; numpy.set_printoptions(precision=2)": "numpy's print options",
    "def late():\n    import numpy\n    numpy.seterr(all='raise')\nlate()": "numpy's error handling",
    "import sys; sys.setrecursionlimit(4000)": "the recursion limit",
    "import json, random, numpy, sklearn; random.random(); numpy.random.rand()": "",
}
#: A process of its own for each, forked from one that has loaded them all.
PROGRAM = """
import os, pathlib, sys
from handoff_mpi.launch.top_level import TopLevel
cases = eval(sys.argv[1])
for number, text in enumerate(cases):
    if os.fork() == 0:
        top_level = TopLevel(pathlib.Path("dag.py"))
        with top_level.noting():
            exec(text, {"__name__": "dag"})
        print(number, top_level.own.in_words(), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.long
def test_changes_are_noticed(tmp_path):
    command = [sys.executable, "-c", PROGRAM, repr(list(CASES))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told = dict(line.split(" ", 1) for line in ended.stdout.splitlines())
    assert [told[str(number)] for number in range(len(CASES))] == list(CASES.values())


def test_warnings_of_imports_tell_the_line_of_the_import(tmp_path):
    (tmp_path / "old_module.py").write_text("import warnings\nwarnings.warn('old', stacklevel=2)\n")
    (tmp_path / "dag.py").write_text("\nimport old_module\n" + END)
    ended = run_process([sys.executable, "-m", "handoff_mpi", "run", "dag.py"], tmp_path)
    assert f"{tmp_path}/dag.py:2: UserWarning: old" in ended.err


def test_noticing_costs_little_where_code_imports_again_and_again(tmp_path):
    top_level = TopLevel(tmp_path / "dag.py")
    with top_level.noting():
        began = time.perf_counter()
        for _ in range(2000):
            from os import path  # noqa: F401
        assert time.perf_counter() - began < 0.5
