"""Ten storms, each of a kind of its own: what ``python -m tests.faults.storm`` shows at length."""

from __future__ import annotations

import pytest

from tests.faults import storm

SEEDS = (2003, 2006, 2007, 2008, 2010, 2018, 2028, 2031, 2037, 2039)


@pytest.mark.long
@pytest.mark.parametrize("seed", [SEEDS[0], *[pytest.param(seed, marks=pytest.mark.soak) for seed in SEEDS[1:]]])
def test_a_run_ends_and_resumes_to_the_right_value(tmp_path, seed):
    drawn = storm.draw(seed)
    assert storm.run(drawn, tmp_path / "cell").problems == [], str(drawn)
