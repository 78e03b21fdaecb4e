"""Each mistake that was made once is made again: the seed kept for it fails with the mistake, and passes without."""

from __future__ import annotations

import pytest

from tests.simulation.mistakes import MISTAKES, Mistake, how_it_fails

#: Runs of linked arrays take seconds.
_LINKED = {"links", "folds", "chains"}
CASES = [
    pytest.param(each, id=each.what, marks=[pytest.mark.long] if _LINKED & each.options.keys() else [])
    for each in MISTAKES
]


@pytest.mark.parametrize("mistake", CASES)
def test_a_seed_catches_the_mistake(mistake: Mistake):
    mistake.run()
    with mistake.made():
        assert how_it_fails(mistake), f"find another seed: python -m tests.simulation.mistakes '{mistake.what}'"
