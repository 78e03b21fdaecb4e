"""Arrays over arrays in a plan: fingerprints, what a check decodes before the run, copies."""

import copy
import operator
import pickle

from handoff_mpi import DAG, Function
from handoff_mpi.dag import Plan
from handoff_mpi.dag.dry_run import FIRST_ELEMENT, collect_pieces
from handoff_mpi.dag.fingerprint import fingerprints


def marks(elements, code=abs, of=slice(None)):
    """The fingerprints of an array over another one, of a fold, and of functions that take their values."""
    dag = DAG()
    xs = dag.map(code, elements, id="xs")
    ys = dag.map(operator.neg, xs[of], id="ys")
    total = dag.reduce(operator.add, ys, id="total")
    dag.add_function(Function("list", [ys], sum))
    dag.add_function(Function("sum", [total], float))
    Plan().add(dag.validate())  # which encodes the elements
    found = fingerprints(dag)
    return {id: found.of(id) for id in ("ys", "total", "list", "sum")}


def test_the_fingerprint_of_an_array_says_nothing_of_elements_and_that_of_its_consumers_all():
    first, longer, other = marks([1, 2]), marks([1, 2, 3]), marks([1, 2], operator.invert)
    assert None not in first.values() and first == marks([1, 2])
    assert (longer["ys"], longer["total"]) == (first["ys"], first["total"])
    assert longer["list"] != first["list"] and longer["sum"] != first["sum"]
    assert all(other[id] != first[id] for id in first)
    part = marks([1, 2, 3], of=slice(2))
    assert part["ys"] == first["ys"] and part["list"] not in (first["list"], longer["list"])


def test_a_check_decodes_elements_that_are_known_before_the_run():
    dag = DAG()
    xs = dag.map(abs, [(1, 2)], id="xs")
    dag.map(operator.add, xs, [(3,)], id="ys")
    dag.reduce(operator.add, [(1,), (2,)], id="total")
    dag.reduce(operator.add, xs, id="other")
    plan = Plan()
    plan.add(dag.validate())
    pieces = collect_pieces(plan)
    owners = zip(pieces.pieces, pieces.tasks, strict=True)
    decoded = [plan.ids[task] for (kind, *_), (task, _) in owners if kind == FIRST_ELEMENT]
    assert decoded == ["xs", "ys", "total"]


def test_copies_of_a_dag_keep_its_links():
    dag = DAG("steps")
    dag.reduce(operator.add, dag.map(abs, range(10), id="xs")[::2], fan_in=2, id="total")
    for copied in (copy.deepcopy(dag), pickle.loads(pickle.dumps(dag))):
        specs = Plan().add(copied.validate())
        assert specs[1].array.links == Plan().add(dag)[1].array.links and specs[1].needs == (0,)
