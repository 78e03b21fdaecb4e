"""README and manual: the README is short, its example prints what it says, and links lead somewhere."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "handoff_mpi" / "manual").glob("*.md"))]
MAX_WORDS = 900
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Parts of a run's output that differ each time: dates, times, figures of the machine, seconds, names of run-dirs.
_VARIES = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\d{8}-\d{6}(-\d+)?|\d[\d,.]*")


def blocks(page, language):
    return [body for kind, body in _BLOCK.findall(page.read_text()) if kind == language]


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= MAX_WORDS


def shape(output, directory):
    """Return the lines of an output that every run prints, with figures and names of directories replaced."""
    lines = [line for line in output.replace(f"{directory}/", "").splitlines() if "limited by" not in line]
    kept = [line for line in lines if not line.strip().startswith(("busy:", "slowest:"))]
    return [_VARIES.sub("N", line) for line in kept]


def test_the_example_of_the_readme_prints_what_the_readme_shows(handoff, tmp_path):
    (example,), (printed,) = blocks(README, "python"), blocks(README, "text")
    (tmp_path / "dag.py").write_text(example)
    ended = handoff("run", "-n", "4", "dag.py")
    assert ended.rc == 0, ended.err
    assert ended.out == "pi is about 3.146\n" and ended.out in printed
    assert shape(ended.err, tmp_path) == shape(printed.replace(ended.out, ""), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in _LINK.findall(re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)):
        if re.match(r"https?://", target):
            continue  # tests reach no network
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_of_commands_exist(page, handoff):
    commands = [line for block in blocks(page, "sh") for line in block.splitlines() if " handoff_mpi " in line]
    for verb in {match[1] for line in commands if (match := re.search(r"handoff_mpi (run|check|doctor)\b", line))}:
        known = handoff(verb, "--help").out
        for line in commands:
            after = line.split(f"handoff_mpi {verb}", 1)[1:] or [""]
            for flag in re.findall(r"(?<!\S)--?[a-z][a-z-]*", after[0].partition("#")[0].partition(" -- ")[0]):
                assert flag in known, (line, flag)


def messages():
    """Yield the texts of the package's code: all strings but docstrings, formatted ones in pieces."""
    for path in (ROOT / "handoff_mpi").rglob("*.py"):
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                yield node.value


def test_the_messages_of_the_troubleshooting_page_are_messages_of_ours():
    texts = list(messages())
    page = (ROOT / "handoff_mpi/manual/troubleshooting.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(rows) > 25
    assert not [row for row in rows if not any(row in text for text in texts)]
