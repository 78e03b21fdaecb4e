"""A static look tells which global generators a function draws from."""

from __future__ import annotations

import functools
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from handoff_mpi import DAG, current_task, task
from handoff_mpi.worker.draws import NUMPY, RANDOM, UNKNOWN, DrawFinder

HEAD = """
import functools, math, os, random
import random as rnd
import numpy as np
import numpy.random as npr
from numpy import random as from_numpy
from random import choice, random as draw
from numpy.random import rand
from handoff_mpi import current_task, task

def helper(): return deeper()
def deeper(): return np.random.normal()
class Model:
    def step(self): return random.gauss(0, 1)
class Derived(Model): pass
class Property:
    @property
    def value(self): return draw()
def counted(function):
    @functools.wraps(function)
    def inner(*args): return function(*args)
    return inner
@counted
def decorated(): return rnd.random()
@functools.lru_cache
def cached(): return rand()
@task
def other_task(): return rand()
def recursive(n): return recursive(n - 1) if n else draw()
class Holder:
    def __init__(self): self.draw = rand
HOLDER, MODEL, STEPS, NAMED = Holder(), Model(), [math.sin, helper], {"a": deeper}
def gives(function):
    def inner(): return function()
    return inner
"""
DRAWING = {
    "lambda: random.random()": RANDOM,
    "lambda: rnd.choice([1])": RANDOM,
    "lambda: choice([1])": RANDOM,
    "lambda: draw()": RANDOM,
    "lambda: np.random.rand()": NUMPY,
    "lambda: npr.shuffle([1])": NUMPY,
    "lambda: from_numpy.random()": NUMPY,
    "lambda: rand()": NUMPY,
    "lambda: np.random.mtrand._rand.rand()": NUMPY,
    "lambda: getattr(np.random, 'rand')()": NUMPY,
    "lambda: helper()": NUMPY,
    "lambda: [helper() for _ in range(2)]": NUMPY,
    "lambda: (lambda: (lambda: draw())())()": RANDOM,
    "lambda: Model().step()": RANDOM,
    "lambda: Derived().step()": RANDOM,
    "lambda: random.Random(1).random() + random.random()": RANDOM,
    "lambda: (random.Random(1), rnd.uniform(0, 1))": RANDOM,
    "lambda: (np.random.default_rng(1), np.random.rand())": NUMPY,
    "lambda: (np.random.default_rng(1), getattr(np.random, 'rand')())": NUMPY,
    "lambda: MODEL.step()": RANDOM,
    "lambda: HOLDER.draw()": NUMPY,
    "lambda: Property().value": RANDOM,
    "lambda: STEPS[1]()": NUMPY,
    "lambda: NAMED['a']()": NUMPY,
    "lambda f=helper: f()": NUMPY,
    "lambda *, f=helper: f()": NUMPY,
    "gives(helper)": NUMPY,
    "gives(gives(choice))": RANDOM,
    "decorated": RANDOM,
    "lambda: decorated()": RANDOM,
    "lambda: cached()": NUMPY,
    "lambda: other_task()": NUMPY,
    "lambda: recursive(3)": RANDOM,
    "functools.partial(helper)": NUMPY,
    "functools.partial(map, helper)": NUMPY,
    "MODEL.step": RANDOM,
    "Model": RANDOM,
    "random.random": RANDOM,
    "np.random.normal": NUMPY,
    "lambda: random.random() + rand()": RANDOM | NUMPY,
}
NOT_DRAWING = [
    "abs",
    "math.sin",
    "np.sin",
    "lambda: 1",
    "lambda: np.zeros(3).sum()",
    "lambda: random.Random(current_task().seed)",
    "lambda: np.random.default_rng(current_task().seed)",
    "lambda: np.random.Generator(np.random.PCG64(1))",
    "lambda: random.Random(1).random()",
    "lambda: [rnd.Random(i).choice([1]) for i in range(3)]",
    "lambda: np.random.default_rng(1).normal() + npr.Generator(npr.PCG64(1)).random()",
    "lambda: os.path.join('a', 'b')",
    "lambda: math.sin(1) + current_task().attempt",
    "counted(abs)",
]


@pytest.fixture(scope="module")
def names():
    scope = {"__name__": "script"}
    exec(HEAD, scope)
    return scope


@pytest.mark.parametrize("text", DRAWING)
def test_what_draws_is_found(names, text):
    assert DrawFinder().find(eval(text, names)) == DRAWING[text]


@pytest.mark.parametrize("text", NOT_DRAWING)
def test_what_does_not_draw_is_left_alone(names, text):
    assert DrawFinder().find(eval(text, names)) == 0


def test_what_a_fold_calls_is_followed():
    dag = DAG("fold")
    dag.reduce(lambda a, b: a + random.random(), [1, 2], id="drawing")
    dag.reduce(lambda a, b: a + b, [1, 2], id="plain")
    assert [DrawFinder().find(each.code) for each in dag] == [RANDOM, 0]


def test_imports_within_functions_count():
    def local():
        import random

        return random.random()

    def from_numpy():
        from numpy.random import rand

        return rand()

    def some():
        from random import Random, choice

        return Random, choice

    def none():
        from random import Random

        return Random(1).random()

    def of_numpy():
        import numpy

        return numpy.random.rand()

    def harmless():
        import json

        import numpy

        return json.dumps(numpy.zeros(1).tolist())

    def missing():
        import a_module_that_is_not_there

        return a_module_that_is_not_there

    found = [DrawFinder().find(each) for each in (local, from_numpy, some, none, of_numpy, harmless, missing)]
    assert found == [RANDOM, NUMPY, RANDOM, 0, NUMPY, 0, 0]


@pytest.mark.long
def test_modules_of_the_user_and_installed_ones_are_followed(tmp_path):
    """In a process of its own: what is loaded counts."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "inner.py").write_text("import random\ndef drawn(): return random.random()\n")
    (tmp_path / "helpers.py").write_text("import numpy as np\ndef f(): return np.random.rand()\ndef g(): return 1\n")
    program = """
        import helpers, package.inner
        from helpers import f
        from package import inner
        from sklearn.utils import shuffle
        import scipy.linalg
        from handoff_mpi.worker.draws import DrawFinder
        def late():
            import helpers
            return helpers.f()
        codes = [lambda: helpers.f(), lambda: helpers.g(), lambda: f(), lambda: inner.drawn(), helpers.f, late]
        codes += [lambda: package.inner.drawn(), lambda: shuffle([1]), lambda: scipy.linalg.norm([1])]
        print(*(DrawFinder().find(each) for each in codes))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    found = [int(each) for each in ended.stdout.split()]
    assert found[:7] == [NUMPY, 0, NUMPY, RANDOM, NUMPY, NUMPY, RANDOM]
    shuffles, norm = found[7:]
    assert shuffles & (NUMPY | UNKNOWN)
    assert norm == 0


def test_modules_that_are_not_loaded_are_looked_at_as_sources(tmp_path, monkeypatch):
    files = {"not_loaded_plain": "import json, {0}behind", "not_loaded_behind": "def f(): pass"}
    files |= {"not_loaded_drawing": "  from {0}deeper.inner import f", "not_loaded_deeper/__init__": "import abc"}
    files["not_loaded_deeper/inner"] = "def f():\n    import random"
    (tmp_path / "not_loaded_deeper").mkdir()
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text.format("not_loaded_"))
    monkeypatch.syspath_prepend(tmp_path)
    scope = {"__name__": "script"}
    exec("def plain():\n import not_loaded_plain\ndef drawing():\n import not_loaded_drawing\n", scope)
    assert DrawFinder().find(scope["plain"]) == 0
    assert DrawFinder().find(scope["drawing"]) == RANDOM | UNKNOWN
    assert not any(name.startswith("not_loaded") for name in sys.modules)


class Hostile:
    """Its objects answer nothing."""

    def __getattribute__(self, name):
        raise RuntimeError(name)

    def __eq__(self, other):
        raise RuntimeError


def test_objects_of_any_kind_are_taken():
    hostile = Hostile()
    everything = [hostile, Hostile, object(), sys, functools, (hostile,), {"a": hostile}, type, iter(()), ..., task]
    for each in everything:
        DrawFinder().find(each)
        assert DrawFinder().find(lambda each=each: each) >= 0
    endless = []
    endless.append(endless)
    assert DrawFinder().find(lambda: endless) == 0


def test_code_that_is_too_large_to_follow_is_unknown():
    scope = {"__name__": "script"}
    exec("\n".join(f"def f{i}(): return f{i + 1}()" for i in range(2000)), scope)
    assert DrawFinder().find(lambda first=scope["f0"]: first()) & UNKNOWN


def test_what_many_codes_refer_to_is_followed_once(monkeypatch):
    from handoff_mpi.worker import draws

    followed = []
    follow = draws._follow
    monkeypatch.setattr(draws, "_follow", lambda first: followed.append(first) or follow(first))

    def shared():
        return random.random() + float(np.random.rand()) + current_task().seed

    finder = DrawFinder()
    for number in range(50):
        assert finder.find(lambda number=number: shared()) == RANDOM | NUMPY
    assert followed.count(shared) == 1
