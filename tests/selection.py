"""Which tests run: most by default, the long ones too with ``--all``; those marked ``soak`` are a command of their own.

A test is marked ``long`` that takes more than a second on two quiet cores, unless it is what shows the default run that
a kind of thing works at all: real deaths, a Slurm, whole hosts, a browser, MPICH, a pseudo-terminal. A test marked
``soak`` takes more than seven seconds, and tries again and in many ways what others try once. What the command line
names, a file or a test, runs whole.
"""

from __future__ import annotations

from pathlib import Path

import pytest

LONG, SOAK = "long", "soak"
#: How many long tests are left out.
_LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("selection")
    group.addoption("--all", action="store_true", help=f"run the tests marked {LONG} too")
    group.addoption("--rest", action="store_true", help=f"run the tests marked {LONG} alone")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{LONG}: takes more than a second, and runs with --all")
    config.addinivalue_line("markers", f"{SOAK}: takes more than seven seconds, and runs with -m {SOAK} alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr:
        return  # the user has chosen by marks
    named = _named(config)
    chosen = {item: _is_chosen(config, item, named) for item in items}
    left_out = [item for item in items if not chosen[item]]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        if not config.option.rest:
            config.stash[_LEFT_OUT] = sum(item.get_closest_marker(LONG) is not None for item in left_out)
        items[:] = [item for item in items if chosen[item]]


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


def _named(config: pytest.Config) -> list[tuple[Path, str]]:
    """Return the files that the command line names, each with the test that it names in it, or nothing."""
    words = [word.partition("::") for word in config.option.file_or_dir if ".py" in word]
    return [((config.invocation_params.dir / file).resolve(), test) for file, _, test in words]
