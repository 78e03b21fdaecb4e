"""Hosts made of namespaces, where they can be made; and all that was said, of a test that fails."""

from __future__ import annotations

import pytest

from tests.conftest import missing
from tests.faults import launching
from tests.faults.namespaces import Hosts, find_missing


@pytest.fixture(autouse=True)
def told():
    """Begin again, with no process on the list."""
    launching.told.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Show all that was said by what a failed test has started: chance may not bring it again."""
    report = yield
    if report.failed:
        report.sections += [(f"said by {command}", said()) for command, said in launching.told]
    return report


@pytest.fixture
def three_hosts():
    """Three hosts, for one test."""
    lacking = find_missing()
    if lacking is not None:
        missing(lacking)
    with Hosts(3) as hosts:
        yield hosts
