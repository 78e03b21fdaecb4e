"""Which tests run: most by default, the long ones too with ``--all``; those marked ``soak`` are a command of their own.

A test is marked ``long`` that takes more than a second on two quiet cores, unless it is what shows the default run that
a kind of thing works at all: real deaths, a Slurm, whole hosts, a browser, MPICH, a pseudo-terminal. A test is marked
``soak`` that tries again, or in one more way, what others try once, and takes seconds. Of the combinations of a test's
parameters ``sample("run -n-TERM", ...)`` names those that run with the others; the rest is ``soak``. Of a long test
without a sample the first long combination runs with the long tests. A file or a test that the command line names runs
whole, but for what is ``soak`` in a file.
"""

from __future__ import annotations

from pathlib import Path

import pytest

LONG, SOAK, SAMPLE, GPU = "long", "soak", "sample", "gpu"
#: How many long tests are left out.
_LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("selection")
    group.addoption("--all", action="store_true", help=f"run the tests marked {LONG} too")
    group.addoption("--rest", action="store_true", help=f"run the tests marked {LONG} alone")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{LONG}: takes more than a second, and runs with --all")
    config.addinivalue_line("markers", f"{SOAK}: takes seconds, tries again what others try, runs with -m {SOAK} alone")
    config.addinivalue_line("markers", f"{GPU}: needs a CUDA device and cupy; python -m tests.gpu runs all of them")
    config.addinivalue_line("markers", f"{SAMPLE}(id, ...): of these combinations of parameters; the others are {SOAK}")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _mark_what_is_no_sample(config, items)
    _mark_repetitions(items)
    if config.option.markexpr:
        return  # the user has chosen by marks
    named = _named(config)
    chosen = {item: _is_chosen(config, item, named) for item in items}
    left_out = [item for item in items if not chosen[item]]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        if not config.option.rest:
            config.stash[_LEFT_OUT] = sum(_is_long(item) for item in left_out)
        items[:] = [item for item in items if chosen[item]]


def _mark_what_is_no_sample(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the combinations of parameters that no sample names.

    Raises:
        pytest.UsageError: a sample names one that there is not.
    """
    unmet: dict[str, set[str]] = {}
    for item in items:
        sample = item.get_closest_marker(SAMPLE)
        if sample is not None:
            test, _, id = item.nodeid.removesuffix("]").partition("[")
            unmet.setdefault(test, set(sample.args)).discard(id)
            if id not in sample.args:
                item.add_marker(SOAK)
    unknown = {test: ids for test, ids in unmet.items() if ids}
    if unknown and not any("::" in word for word in config.option.file_or_dir):
        raise pytest.UsageError(f"samples that are no combinations of parameters: {unknown}")


def _mark_repetitions(items: list[pytest.Item]) -> None:
    """Mark all combinations of parameters of a long test but the first one, unless a sample names them."""
    seen: set[str] = set()
    for item in items:
        test, _, id = item.nodeid.partition("[")
        if not id or not _is_long(item) or item.get_closest_marker(SAMPLE) is not None:
            continue
        if test in seen:
            item.add_marker(SOAK)
        seen.add(test)


def pytest_report_collectionfinish(config: pytest.Config) -> str:
    count = config.stash.get(_LEFT_OUT, 0)
    return f"{count} tests marked {LONG} are left out; --all runs them too" if count else ""


def _is_chosen(config: pytest.Config, item: pytest.Item, named: list[tuple[Path, str]]) -> bool:
    tests = [test for path, test in named if path == item.path]
    name = item.nodeid.partition("::")[2]
    if any(test and name.startswith(test) for test in tests):
        return True
    if item.get_closest_marker(SOAK) is not None:
        return False
    is_long = item.get_closest_marker(LONG) is not None
    if config.option.rest and not config.option.all:
        return is_long
    return bool(config.option.all or tests or not is_long)


def _is_long(item: pytest.Item) -> bool:
    return item.get_closest_marker(LONG) is not None and item.get_closest_marker(SOAK) is None


def _named(config: pytest.Config) -> list[tuple[Path, str]]:
    """Return the files that the command line names, each with the test that it names in it, or nothing."""
    words = [word.partition("::") for word in config.option.file_or_dir if ".py" in word]
    return [((config.invocation_params.dir / file).resolve(), test) for file, _, test in words]
