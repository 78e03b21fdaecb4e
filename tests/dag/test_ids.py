"""An object that cannot be looked up, compared or shown is not an id, and is refused by name before it can do harm."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from handoff_mpi import DAG, Argument, DAGError, Function, Handle, collocated
from handoff_mpi.dag.ids import MAX_DEPTH, find_id_problem, is_plain_id


class Odd:
    """Does what the test chose when it is hashed, compared or shown."""

    def __init__(self, **does):
        self.does = does
        self.count = 0

    def _do(self, what, usual):
        action = self.does.get(what, usual)
        if isinstance(action, type) and issubclass(action, BaseException):
            raise action("no\nway")
        return action

    def __hash__(self):
        self.count += 1
        return self.count if self.does.get("hash") == "changes" else self._do("hash", 1)

    def __eq__(self, other):
        return self._do("eq", self is other)

    def __repr__(self):
        return self._do("repr", "Odd()")


def nested(depth, kind=tuple):
    id = kind()
    for _ in range(depth):
        id = kind([id])
    return id


IDS = {
    "unhashable": ([1], "cannot be hashed"),
    "unhashable inside": (("a", [1]), "cannot be hashed"),
    "hash raises": (Odd(hash=ValueError), "cannot be hashed (ValueError: no\\nway)"),
    "hash exits": (Odd(hash=SystemExit), "cannot be hashed"),
    "hash changes": (Odd(hash="changes"), "its hash changes"),
    "comparison raises": (Odd(eq=ValueError), "cannot be compared"),
    "unequal to itself": (Odd(eq=False), "does not equal itself"),
    "nan": (float("nan"), "does not equal itself"),
    "repr raises": (Odd(repr=ValueError), "cannot be shown"),
    "repr exits": (Odd(repr=SystemExit), "cannot be shown"),
    "repr is no text": (Odd(repr=5), "cannot be shown"),
    "deep": (nested(5_000), f"nested more than {MAX_DEPTH} deep"),
    "very deep": (nested(200_000), f"nested more than {MAX_DEPTH} deep"),
    "deep sets": (nested(MAX_DEPTH + 1, frozenset), f"nested more than {MAX_DEPTH} deep"),
    "handle": (Handle("a"), "it is a Handle; use its id"),
    "argument": (Argument("a"), "it is a Argument; use its id"),
    "dag": (DAG(), "it is a DAG; use its id"),
}


@pytest.mark.parametrize("kind", IDS)
def test_it_is_no_id(kind):
    id, why = IDS[kind]
    dag = DAG("d")
    with pytest.raises(DAGError) as caught:
        dag.add_function(Function(id, (), abs))
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(dag) == 0


@pytest.mark.parametrize("kind", [kind for kind in IDS if kind not in ("handle", "argument")])
def test_it_is_no_reference_either(kind):
    id, _ = IDS[kind]
    dag = DAG("d")
    function = dag.add_function(Function("a", (), abs)).id
    dag[function].args = [id]
    dag.add_function(Function("b", ("gone",), abs, node=collocated(id)))
    with pytest.raises(DAGError, match="2 problems") as caught:
        dag.validate()
    first, second = caught.value.problems
    assert first.startswith("function 'a': args holds")
    assert second.startswith("function 'b': node is collocated with")


def test_an_id_that_is_put_in_later_is_refused_too():
    dag = DAG("d")
    dag.add_function(Function("a", (), abs))
    dag.functions[0].id = Odd(repr=ValueError)
    with pytest.raises(DAGError, match="<Odd> cannot be an id: it cannot be shown"):
        dag.validate()


@dataclasses.dataclass(frozen=True)
class Key:
    name: str
    number: int


GOOD = ["a", 1, True, b"x", ("a", 1), (("a", 2), frozenset([1])), 1.5, Key("k", 1), Odd(), "x\x1b[31m\n"]


@pytest.mark.parametrize("id", GOOD)
def test_it_is_an_id(id):
    assert find_id_problem(id) == ""
    dag = DAG()
    dag.add_function(Function(id, (), abs))
    assert len(dag.validate()) == 1
    assert is_plain_id(id) == (type(id) in (str, int, bool, bytes) or id == ("a", 1))


def test_names_with_line_ends_and_escapes_stay_on_their_line():
    dag = DAG("d\n\x1b[31m")
    dag.add_function(Function("a\n\x1b[31m", ["b\r"], abs))
    dag.add_function(Function("c", (), abs, cost={"gpu\n": 1}))
    with pytest.raises(DAGError) as caught:
        dag.validate()
    assert len(caught.value.problems) == 2
    assert all(problem.isprintable() for problem in caught.value.problems)


class Shy:
    def __repr__(self):
        raise ValueError("no")


FIELDS = [field.name for field in dataclasses.fields(Function) if field.name != "id"]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("odd", ["handle", "array", "shy", "nested", "mapping"])
def test_fields_of_any_type_are_refused_in_a_line_or_make_sense(name, odd):
    odds = {"handle": Handle("b"), "array": np.arange(3), "shy": Shy(), "nested": [[Shy()]]}
    odds["mapping"] = {Shy(): Handle("b")}
    value = odds[odd]
    dag = DAG("d")
    dag.add_function(Function("b", (), abs, [1]))
    dag.add_function(Function(**{"id": "a", "code": abs, name: value}))
    try:
        dag.validate()
    except DAGError as error:
        assert all(problem.isprintable() for problem in error.problems)
