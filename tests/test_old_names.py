"""Old public names work for one more release; nothing lists them."""

from __future__ import annotations

import pytest

import handoff_mpi as handoff
from handoff_mpi import errors
from handoff_mpi.allocation.resource_groups import ResourceGroup
from handoff_mpi.flags import options_given, parse
from handoff_mpi.runtime.options import options_of


@pytest.mark.parametrize(("old", "new"), errors.OLD_NAMES.items())
def test_errors_are_found_by_their_old_names(old, new):
    assert getattr(errors, old) is getattr(errors, new)
    if new in handoff.__all__:
        assert getattr(handoff, old) is getattr(handoff, new)
    assert old not in dir(handoff)


def test_a_name_that_never_was_is_refused():
    with pytest.raises(AttributeError, match="has no attribute 'FitsEverywhere'"):
        errors.FitsEverywhere  # noqa: B018


def test_a_strategy_with_the_old_names_runs():
    asked = []

    class Last(handoff.RatedStrategy):
        inherits = False

        def rate(self, cost, group):
            asked.append(cost)
            return -group.calmest_idle(cost)

    assert Last.score is Last.rate
    assert not Last.reuses_claims
    dag = handoff.DAG("old")
    dag.add_function(handoff.Function(dag.fresh_id("f"), (), int))
    results = handoff.execute_local(dag, allocation_strategy=Last())
    assert results["f"] == 0
    assert asked
    assert results.setbacks() == {}


def test_methods_have_their_old_names():
    assert ResourceGroup.calmest_idle is ResourceGroup.least_loaded
    assert handoff.DAG.fresh_id is handoff.DAG.unique_id
    assert handoff.Results.setbacks is handoff.Results.incidents


@pytest.mark.parametrize(("old", "new"), [("silence_limit", "heartbeat_timeout"), ("drain", "grace_period")])
def test_options_are_taken_by_their_old_names(old, new, capsys, monkeypatch):
    assert getattr(options_of({old: 7}), new) == 7
    flag = f"--{old.replace('_', '-')}"
    assert options_given(parse(["run", flag, "8", "dag.py"]))[new] == 8
    monkeypatch.setenv(f"HANDOFF_{old.upper()}", "9")
    assert options_given(parse(["run", "dag.py"]))[new] == 9
    monkeypatch.setenv(f"HANDOFF_{new.upper()}", "10")
    assert options_given(parse(["run", "dag.py"]))[new] == 10
    with pytest.raises(SystemExit):
        parse(["run", "--help"])
    assert flag not in capsys.readouterr().out
