"""The script on bad hosts in small: what it shows at length must hold at every change."""

from __future__ import annotations

import pytest

from tests.faults import bad_host


@pytest.mark.long
@pytest.mark.sample("3")
@pytest.mark.parametrize("retries", [3, 0])
def test_nothing_fails_for_good_because_four_of_six_ranks_are_on_a_bad_host(tmp_path, retries):
    ending = bad_host.run(tmp_path, retries=retries, count=60, seconds=0.05)
    assert (ending.code, ending.failed) == (0, 0), ending.said
    assert ending.most_attempts <= 4, "one on each host, and dispatches that were recalled for an idle rank"
    assert "host bad" in ending.probation  # and perhaps one of its ranks a moment before
    assert "host bad was on probation: " in ending.said
