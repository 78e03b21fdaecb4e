"""Sessions of the manual: blocks of commands with what a terminal shows, which tests type again.

A page states its directory and its host: what a command prints of the test's own is replaced by these. Lines and parts
of lines that differ from run to run are left out of the comparison, see :func:`shape`.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

from tests.terminal import Terminal

HOST = "node1"
_SESSION = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Parts that differ each time: names of files, dates, times, durations, figures of the machine, width of the terminal.
_VARIES = re.compile(
    r"\b[0-9a-f]{40}\b|\d{8}-\d{6}(-\d+)?|\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d|\d[\d,.]*( m?s\b)?|─+|━+",
)
#: Lines that not every run prints, or not alike: a large value is written where that is quicker than computing it.
_OCCASIONAL = ("busy:", "limited by", "slowest:", "Its value (")
#: A line that a function printed; it may come before or after those of rank 0.
_FORWARDED = re.compile(r"\d+: .* \| ")


def read_sessions(page):
    """Return pairs (command, what it prints), in the order of the page."""
    blocks = _SESSION.findall(page.read_text())
    parts = [part.partition("\n") for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, printed) for command, _, printed in parts]


def type_in(command, cwd, directory):
    """Type a command at a terminal; return what it shows, as if it had run in ``directory`` on :data:`HOST`.

    The terminal is so wide that no line is folded, but for ``status``, which would draw two tables beside each other.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    columns = 120 if " status " in command else 300
    terminal = Terminal(["bash", "-c", command], cwd, columns, lines=60, env={"PATH": path})
    terminal.end(60)
    terminal.close()
    host = re.escape(socket.gethostname())
    return re.sub(rf"\({host}\)|^{host}(?=  )", _as_on_host, terminal.text.replace(str(cwd), directory), flags=re.M)


def _as_on_host(found):
    return f"({HOST})" if found[0].startswith("(") else HOST


def shape(text):
    """Return the lines that every terminal shows, with what varies replaced; Python 3.10 marks no part of a line."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip(" ^~")]
    kept = [line for line in lines if not line.strip().startswith(_OCCASIONAL)]
    kept.sort(key=lambda line: _FORWARDED.match(line) is not None)
    return [_VARIES.sub("N", line) for line in kept]
