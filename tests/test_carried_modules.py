"""Carried modules: what a process makes of definitions that it cannot make whole."""

from __future__ import annotations

import pickle
import sys

import pytest

from handoff_mpi.carried_modules import Definition, carried, make_class

ABOUT = ("module_of_halves", "<no file>", None, None)


class Bomb:
    """Unpickled, it raises."""

    def __reduce__(self):
        return int, ("boom",)


class Half:
    """Unpickled, it is a class of the module, whose state cannot be unpickled."""

    def __reduce__(self):
        return make_class, (ABOUT, "Model", type, ("Model", (), {})), Bomb()


@pytest.fixture
def module():
    yield carried(ABOUT)
    sys.modules.pop(ABOUT[0], None)


def test_no_call_gets_a_class_that_could_not_be_made_whole(module):
    definition = Definition("Model", 1, (), pickle.dumps(Half()))
    for _ in range(2):
        with pytest.raises(ValueError, match="boom"):
            module.take([definition])
        assert "Model" not in vars(module.copy)
