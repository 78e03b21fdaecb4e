"""Each kind of message is made by a function whose parameters are its fields, and handled by one with the same."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from handoff_mpi import messages, simulation
from handoff_mpi.runtime import worker_reactor, worker_reports
from handoff_mpi.worker import child_main
from handoff_mpi.worker.machine import Worker

KINDS = {name: kind for name, kind in vars(messages).items() if name.isupper() and kind == name.lower()}
NOT_MESSAGES = {"TIMEOUT", "DEATH", "REFUSED", "UNPICKLABLE"}
MADE = {kind: getattr(messages, kind) for name, kind in KINDS.items() if name not in NOT_MESSAGES}


def fields_of(function, *others):
    """Return the names of the parameters, but for ``others``."""
    return [name for name in inspect.signature(function).parameters if name not in others]


def is_like(handler, kind):
    """Whether the parameters of a handler are the fields of the kind."""
    return fields_of(handler, "self", "source", "buffers", "taken") == fields_of(MADE[kind], "run")


@pytest.mark.parametrize("kind", MADE)
def test_a_message_has_its_kind_and_the_number_of_its_run_first(kind):
    function = MADE[kind]
    fields = fields_of(function)
    kind_of_message, run, *rest = function(*range(7, 7 + len(fields)))
    assert kind_of_message == kind
    is_of_run = "run" in fields
    assert run == (7 if is_of_run else messages.NO_RUN)
    assert rest == [*range(7 + is_of_run, 7 + len(fields))], "in the order of the parameters"


@pytest.mark.parametrize("kind", worker_reports._ON)
def test_rank_0_unpacks_what_a_worker_sends(kind):
    assert is_like(worker_reports._ON[kind], kind)


def test_a_worker_unpacks_what_is_sent_to_it():
    handlers = [*Worker(1, 1, 1)._on.items(), *worker_reactor._ON.items()]
    assert [kind for kind, handler in handlers if not is_like(handler, kind)] == []


def test_the_simulation_names_kinds_of_messages_for_its_faults_alone():
    """The coordinator and the reactors of real runs handle messages there too: it would test a copy of them."""
    folder = Path(simulation.__file__).parent
    trees = {path.name: ast.parse(path.read_text()) for path in folder.glob("*.py")}
    named = {
        name
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "handoff_mpi.messages"
        if {each.name for each in node.names} & (KINDS.keys() - NOT_MESSAGES)
    }
    assert named == {"network.py"}, "which repeats some of them, and delays others"


def test_a_child_has_a_handler_for_what_its_rank_sends():
    assert all(fields_of(handler)[:2] == ["self", "buffers"] for handler in child_main._ON.values())
