"""Sessions of the manual: blocks of commands with what a terminal shows, which tests type again.

A page states its directory and its host: what a command prints of the test's own is replaced by these. Lines and parts
of lines that differ from run to run are left out of the comparison, see :func:`shape`. Commands are typed where only
those extras of the package are installed that the page tells the reader to install.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from tests.conftest import ROOT
from tests.processes import without_failed_starts
from tests.terminal import Terminal

HOST = "node1"
WITHOUT_EXTRAS = ROOT / "tests" / "without_extras"
_SESSION = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Parts that differ each time: names of files, dates, times, durations, figures of the machine, width of the terminal.
_VARIES = re.compile(
    r"\b[0-9a-f]{40}\b|\d{8}-\d{6}(-\d+)?|\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d|\d[\d,.]*( m?s\b)?|─+|━+",
)
#: Lines that not every run prints, or not alike: a large value is written where that is quicker than computing it.
_OCCASIONAL = ("busy:", "limited by", "slowest:", "Its value (")
#: A line that a function printed; it may come before or after those of rank 0.
_FORWARDED = re.compile(r"\d+: .* \| ")
#: The command that installs the package, and a library that one of its extras needs.
_INSTALL = re.compile(r"pip install '\.\[([a-z,]+)\]'")
_OF_EXTRA = re.compile(r"([\w.-]+).*; .*extra == \"(\w+)\"")
#: Extras that users may install; the others are for developers.
_FOR_USERS = {"report", "metrics", "provenance", "examples"}


def read_sessions(page):
    """Return pairs (command, what it prints), in the order of the page."""
    blocks = _SESSION.findall(page.read_text())
    parts = [part.partition("\n") for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, printed) for command, _, printed in parts]


def uninstalled(page):
    """Return the modules that a reader of ``page`` lacks, who has given its first install command."""
    extras = set(_INSTALL.search(page.read_text())[1].split(","))
    needed = [found for each in requires("handoff_mpi") if (found := _OF_EXTRA.match(each))]
    lacking = {found[1].lower() for found in needed if found[2] in _FOR_USERS - extras}
    names = {name for name, found in packages_distributions().items() if lacking.intersection(map(str.lower, found))}
    return names.difference(sys.stdlib_module_names)  # some distributions install a module called test


def type_in(command, cwd, directory, page):
    """Type a command at a terminal; return what it shows, as if it had run in ``directory`` on :data:`HOST`.

    The terminal is so wide that no line is folded, but for ``status``, which would draw two tables beside each other.

    Args:
        page: whose reader types it.
    """
    env = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{WITHOUT_EXTRAS}",
        "TESTS_UNINSTALLED": ",".join(sorted(uninstalled(page))),
    }
    columns = 120 if " status " in command else 300
    terminal = Terminal(["bash", "-c", command], cwd, columns, lines=60, env=env)
    terminal.end(60)
    terminal.close()
    host = re.escape(socket.gethostname())
    text = without_failed_starts(terminal.text).replace(str(cwd), directory)
    return re.sub(rf"\({host}\)|^{host}(?=  )", _as_on_host, text, flags=re.M)


def _as_on_host(found):
    return f"({HOST})" if found[0].startswith("(") else HOST


def shape(text):
    """Return the lines that every terminal shows, with what varies replaced; Python 3.10 marks no part of a line."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip(" ^~")]
    kept = [line for line in lines if not line.strip().startswith(_OCCASIONAL)]
    kept.sort(key=lambda line: _FORWARDED.match(line) is not None)
    return [_VARIES.sub("N", line) for line in kept]
