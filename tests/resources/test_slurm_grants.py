"""Grants of Slurm are compared with what the ranks use and see; all variables may be wrong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.resources.capability import Capability, Device
from handoff_mpi.resources.slurm_grants import (
    HostView,
    find_mismatches,
    granted_gpus,
    granted_nodes,
    granted_tasks,
    views_of,
)

JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
    "SLURM_MEM_PER_NODE": "1000",
    "SLURM_GPUS_PER_NODE": "2",
}
GRANTED = 1000 * 2**20
ALL = {"n1": HostView(GRANTED, 2), "n2": HostView(GRANTED, 2)}


def found(environ=JOB, ranks=8, views=ALL, **changes):
    given = {**environ, **changes}
    return [(each.about, each.what) for each in find_mismatches({k: v for k, v in given.items() if v}, ranks, views)]


def test_nothing_is_said_of_ranks_that_use_and_see_what_was_granted():
    assert not found()
    assert not found(SLURM_JOB_ID="", ranks=1000), "there is no job"
    assert not found(SLURM_TASKS_PER_NODE="1(x2)"), "a rank for each CPU of whole nodes"
    assert not found(ranks=1), "one process; others tell of it"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ranks": 9}, ("tasks", "9 ranks share the 8 tasks that Slurm granted")),
        ({"ranks": 4}, ("tasks", "4 ranks use a job of 8 tasks")),
        ({"views": {"n1": ALL["n1"]}}, ("nodes", "all 8 ranks are on n1, one of the 2 nodes that Slurm granted")),
        (
            {"views": {**ALL, "n2": HostView(GRANTED // 2, 2)}},
            ("memory", "Slurm granted 1 GB of memory on n2, and the ranks may use 524.3 MB of it"),
        ),
        ({"views": {**ALL, "n2": HostView(GRANTED, 1)}}, ("GPUs", "Slurm granted 2 GPUs on n2, and the ranks see 1")),
        (
            {"views": {**ALL, "n1": HostView(GRANTED, 8)}},
            ("GPUs", "Slurm granted 2 GPUs on n1, and the ranks see 8, those of other jobs too"),
        ),
    ],
)
def test_what_differs_is_said(changes, told):
    assert found(**changes) == [told]


def test_what_the_user_declares_is_no_mismatch():
    less = {"n1": HostView(1, 0), "n2": HostView(1, 0)}
    assert {about for about, _ in found(views=less)} == {"memory", "GPUs"}
    assert not found(views=less, HANDOFF_MEMORY="1000", HANDOFF_GPUS="2")


def test_grants_are_read_in_all_their_forms():
    two = {"SLURM_HET_SIZE": "2", "SLURM_TASKS_PER_NODE_HET_GROUP_0": "1", "SLURM_TASKS_PER_NODE_HET_GROUP_1": "2(x2)"}
    assert granted_tasks(two) == 5
    assert granted_nodes({"SLURM_HET_SIZE": "2", "SLURM_JOB_NODELIST_HET_GROUP_1": "a[1-3],b"}) == 4
    for text, gpus in {"2": 2, "a100:2": 2, "a100:1,v100:3": 4, "all": None, "": None}.items():
        assert granted_gpus({"SLURM_GPUS_PER_NODE": text}) == gpus
    on_node = {"SLURM_GPUS_ON_NODE": "3", "SLURM_JOB_NODELIST": "n1"}
    assert granted_gpus(on_node) == 3
    assert granted_gpus({**on_node, "SLURM_JOB_NODELIST": "n[1-2]"}) is None, "another node may have others"


def test_ranks_of_a_host_see_its_devices_together():
    amounts = {"memory": 500 * UNIT}
    ranks = [Capability(rank, "n1", amounts, (Device(0, uuid),)) for rank, uuid in enumerate("aab")]
    assert views_of([*ranks, Capability(3, "n2", {})]) == {"n1": HostView(500 * 10**6, 2), "n2": HostView(0, 0)}


@given(st.dictionaries(st.sampled_from([*JOB, "SLURM_HET_SIZE", "SLURM_GPUS_ON_NODE"]), st.text(max_size=20)))
@settings(max_examples=200, deadline=None)
def test_variables_that_make_no_sense_are_no_error(environ):
    for each in find_mismatches(environ, 3, ALL):
        assert "\n" not in each.what
