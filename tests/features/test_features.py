"""All of Python that looks for something in its module finds it in every place where a function may run."""

from __future__ import annotations

import pytest

from tests.features import every_feature
from tests.features.table import make_table


@pytest.mark.long
def test_every_feature_works_in_every_place(tmp_path):
    table = make_table(tmp_path)
    assert not table.problems(), f"{table.problems()}\n{table.output[-10_000:]}"
    assert len(table.cells) == len(every_feature.FEATURES)
    assert {len(row) for row in table.cells.values()} == {6}
