"""Seeds the global generators of ``random`` and numpy for each call that draws from them, from the call's id.

So a call draws the same numbers in each run, on any rank and at each attempt, and calls of other ids draw others. Most
calls draw from none, and seeding takes longer than they do: a static look, once for each code, tells
(:mod:`handoff_mpi.worker.draws`). Seeds that ``setup(rank)`` sets win.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from handoff_mpi.worker.draws import NONE, NUMPY, RANDOM, UNKNOWN, DrawFinder, Generators, names_reached

_finder = DrawFinder()
#: The generators that the ``setup(rank)`` called last in this process has seeded.
_seeded_by_setup = NONE
#: Those that have states to restore in this process, the latest last: a function may run a DAG itself.
_to_restore: list[GlobalGenerators] = []


class GlobalGenerators:
    """Seeds generators for the calls of one run.

    Args:
        is_on: whether it does so.
        seeded: the generators that are left as they are, as :func:`seeded_by_setup` gives them.
    """

    def __init__(self, is_on: bool, seeded: Generators = NONE) -> None:
        self._left_alone = seeded if is_on else RANDOM | NUMPY
        self._states: dict[Generators, object] = {}

    def drawn_by(self, codes: Iterable[object]) -> Generators:
        """Return which generators must be seeded for a call of ``codes``, for :meth:`seed`."""
        found = NONE
        if self._left_alone == RANDOM | NUMPY:
            return found
        for each in codes:
            found |= _finder.find(each)
        return found & ~self._left_alone

    def seed(self, which: Generators, seed: int) -> None:
        """Seed the generators ``which`` with a number of 64 bits."""
        if which & RANDOM:
            import random

            if RANDOM not in self._states:
                self._keep(RANDOM, random.getstate())
            random.seed(seed)
        if which & (NUMPY | UNKNOWN) and not self._left_alone & NUMPY:
            self._seed_numpy(bool(which & NUMPY), seed)

    def _seed_numpy(self, is_imported: bool, seed: int) -> None:
        if is_imported:  # by the call, if it is not yet
            importlib.import_module("numpy.random")
        generator = getattr(sys.modules.get("numpy"), "random", None)
        if generator is None:
            return
        if NUMPY not in self._states:
            self._keep(NUMPY, generator.get_state(legacy=False))
        try:
            generator.seed([seed & 0xFFFFFFFF, seed >> 32])
        except TypeError:
            pass  # the user has replaced its bit generator by one that cannot be seeded again

    def _keep(self, which: Generators, state: object) -> None:
        self._states[which] = state
        if self not in _to_restore:
            _to_restore.append(self)

    def restore(self) -> None:
        """Restore the generators as they were before the first call: this process may be a user's."""
        states, self._states = self._states, {}
        if self in _to_restore:
            position = _to_restore.index(self)
            _to_restore.remove(self)
            if position < len(_to_restore):  # another one began later, and ends later
                _to_restore[position]._states.update(states)
                return
        try:
            if RANDOM in states:
                sys.modules["random"].setstate(states[RANDOM])
            if NUMPY in states:
                sys.modules["numpy"].random.set_state(states[NUMPY])
        except Exception:
            pass  # a function has put something else there


def drawn_by(code: object) -> Generators:
    """Return the generators that ``code`` draws from: see :class:`~handoff_mpi.worker.draws.DrawFinder`."""
    return _finder.find(code)


@contextmanager
def noting_seeds(setup: Callable[..., object]) -> Iterator[None]:
    """Note which generators ``setup`` seeds, called inside: what :func:`seeded_by_setup` returns from then on."""
    global _seeded_by_setup
    before = global_states()
    yield
    after = global_states()
    changed = NONE
    for each in after:
        changed |= each if before.get(each) != after[each] else NONE
    named = _finder.find(setup) if changed and names_seed(setup) else NONE
    _seeded_by_setup = changed if named & UNKNOWN else changed & named


def seeded_by_setup() -> Generators:
    """Return the generators that ``setup(rank)`` has seeded in this process."""
    return _seeded_by_setup


def names_seed(code: object) -> bool:
    """Whether the code of a function, or of what it calls, names anything that seeds a generator."""
    try:
        names = names_reached(code)
    except Exception:  # objects of the user may answer anything
        return True
    return any("seed" in name or name in ("setstate", "set_state") for name in names)


def global_states() -> dict[Generators, object]:
    """Return the states of the generators whose modules are loaded, by generator, to be compared."""
    states: dict[Generators, object] = {}
    if "random" in sys.modules:
        states[RANDOM] = sys.modules["random"].getstate()
    if "numpy.random" in sys.modules:
        _, keys, *rest = sys.modules["numpy.random"].get_state()
        states[NUMPY] = (keys.tobytes(), *rest)
    return states
