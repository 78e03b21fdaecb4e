"""The state of a process is in one context; modules have no variables beside it but those that are listed here."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator

import pytest

from handoff_mpi.process_context import ProcessContext, Settings
from tests.conftest import ROOT

#: Caches: the process would do the same without them, only slower.
CACHES = {
    "by_value._marks",
    "dag.fingerprint.objects._files",
    "module_files._packed",
    "module_files._texts",
    "serialization._namespaces",
    "worker.shared_memory._kept",
}
#: Mirrors of what the interpreter or the kernel keeps for the process: modules, handlers, descriptors, mappings, the
#: environment; and the state of a thread's present unpickling.
MIRRORS = {
    "__init__.exit_watch",
    "by_value._state",
    "call_modules._calls",
    "call_modules._entering",
    "call_modules._outside",
    "carried_modules._by_about",
    "carried_modules._by_name",
    "carried_modules._is_child",
    "carried_modules._last_stamp",
    "console.stream",
    "exit_status._codes",
    "gpu_staging._halves",
    "gpu_staging._receiver",
    "python_path._first_path",
    "python_path._private",
    "serialization._parts",
    "signals._handlers",
    "unpickling.reading",
    "worker.child_main._parent",
    "worker.elements._running",
    "worker.output._redirected",
    "worker.process_state._current",
    "worker.process_state._may_have_changed",
    "worker.randomness._seeded_by_setup",
    "worker.randomness._to_restore",
    "worker.shared_memory._mapped",
    "worker.shared_memory._ruined",
    "worker.thread_limits._threads",
}
#: The context itself.
CONTEXT = {"process_context.this_process"}
_CONTAINERS = {"dict", "list", "set", "deque", "defaultdict", "Counter", "WeakSet", "WeakValueDictionary"}
_DISPLAYS = (ast.Dict, ast.DictComp, ast.List, ast.ListComp, ast.Set, ast.SetComp)


def find_state(tree: ast.Module) -> Iterator[str]:
    """Yield the variables of a module that change: constants are written in capitals."""
    rebound = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    makers = _CONTAINERS | {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in (each for each in tree.body if isinstance(each, (ast.Assign, ast.AnnAssign))):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for name in (each.id for each in targets if isinstance(each, ast.Name)):
            if name in rebound or (not name.strip("_").isupper() and _is_mutable(node.value, makers)):
                yield name


def _is_mutable(value: ast.expr | None, makers: set[str]) -> bool:
    if isinstance(value, ast.Call):
        name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
        return name in makers
    return isinstance(value, _DISPLAYS) or (isinstance(value, ast.Constant) and value.value is None)


def test_modules_have_no_state_beside_the_context():
    package = ROOT / "handoff_mpi"
    found = {
        f"{'.'.join(path.relative_to(package).with_suffix('').parts)}.{name}"
        for path in sorted(package.rglob("*.py"))
        for name in find_state(ast.parse(path.read_text()))
        if not name.startswith("__")
    }
    assert found == CACHES | MIRRORS | CONTEXT, "make it a class, and keep its object in this_process"


@pytest.mark.parametrize(
    "text",
    [
        "seen = []",
        "_seen: set[str] = set()",
        "seen = collections.deque()",
        "current: Job | None = None",
        "class Seen: pass\n_seen = Seen()",
        "count = 0\ndef more():\n    global count\n    count += 1",
        "COUNT = 0\ndef more():\n    global COUNT\n    COUNT += 1",
    ],
)
def test_state_is_found_however_it_is_written(text):
    assert len(list(find_state(ast.parse(text)))) == 1


@pytest.mark.parametrize(
    "text", ["NAMES = ['a']", "limit = 3", "_handlers = this_process.of(Handlers)", "def f(): x = []"]
)
def test_what_does_not_change_is_no_state(text):
    assert list(find_state(ast.parse(text))) == []


# -- the context -------------------------------------------------------------------------------------------


class Names(Settings):
    def __init__(self):
        self.names = []

    def restorer(self):
        before = list(self.names)
        return lambda: setattr(self, "names", before)


def test_a_process_has_one_object_of_each_class():
    context, other = ProcessContext(), ProcessContext()
    assert context.of(Names) is context.of(Names)
    assert context.of(Names) is not other.of(Names)
    assert context.kinds() == [Names]


def test_threads_that_ask_at_once_get_the_same_object():
    both, got = threading.Barrier(2), []

    class Slow:
        def __init__(self):
            both.wait(timeout=30)

    context = ProcessContext()
    threads = [threading.Thread(target=lambda: got.append(context.of(Slow))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(got) == 2
    assert got[0] is got[1] is context.of(Slow)


@pytest.mark.parametrize("error", [None, ValueError])
def test_what_is_set_within_is_restored(error):
    context = ProcessContext()
    context.of(Names).names.append("before")
    with pytest.raises(error) if error else context.restored(), context.restored(Names):
        context.of(Names).names.append("within")
        if error:
            raise error
    assert context.of(Names).names == ["before"]


def test_what_was_never_asked_for_is_restored_too():
    context = ProcessContext()
    with context.restored(Names):
        context.of(Names).names.append("within")
    assert context.of(Names).names == []
