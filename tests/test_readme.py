"""README and manual: the README is short, its example prints what it says, and links lead somewhere."""

from __future__ import annotations

import itertools
import re

import pytest

from handoff_mpi.flags import VERBS, verb_parser
from tests.conftest import ROOT
from tests.sessions import read_sessions, shape, type_in
from tests.source_facts import facts_of

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "handoff_mpi" / "manual").glob("*.md"))]
MAX_WORDS = 900
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return [body for kind, body in _BLOCK.findall(page.read_text()) if kind == language]


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= MAX_WORDS


def test_the_example_of_the_readme_prints_what_the_readme_shows(tmp_path):
    (example,), ((command, printed),) = blocks(README, "python"), read_sessions(README)
    (tmp_path / "dag.py").write_text(example)
    shown = type_in(command, tmp_path, "/home/ann/pi", README)
    assert shape(shown) == shape(printed)
    (value,) = re.findall(r"estimate \| (.*)", printed)
    assert value in shown, "the calls draw the same numbers in each run"


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


#: A command of ours as a page writes it, with the words that follow it: to the end of the line, or of the code span.
_COMMAND = re.compile(r"(?:-m handoff_mpi|handoff-mpi) ([a-z]+)((?: [^`\n]*)?)")
_SPAN = re.compile(r"`([^`\n]+)`")
_FLAG = re.compile(r"--[a-z]")
#: Flags of mpirun, srun and sbatch, pip, pytest and Apptainer, which pages name by themselves.
OF_OTHERS = {"--with-ft", "--mpi", "--signal", "--no-binary", "--no-cache-dir", "--bind", "--with-mpi", "--all"}
OF_OTHERS |= {"--no-kill", "--ntasks-per-node", "--array"}


def flags_of(verb):
    """Return the flags of a command, as argparse knows them."""
    return {flag for action in verb_parser(verb)._actions for flag in action.option_strings}


def unknown_flags(verb, words):
    """Return the flags in a command line, up to a comment or ``--``, that its command does not have."""
    if verb == "submit":  # sbatch's flags, then a file and the flags of run
        verb, words = "run", list(itertools.dropwhile(lambda word: not word.endswith(".py"), words))
    given = [word.partition("=")[0] for word in itertools.takewhile(lambda word: word not in ("#", "--", "|"), words)]
    return [word for word in given if word.startswith("-") and word not in flags_of(verb)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_their_flags_exist(page):
    lines = [(match[1], match[2].split()) for match in _COMMAND.finditer(page.read_text())]
    assert {verb for verb, _ in lines} <= set(VERBS)
    assert not [(verb, words) for verb, words in lines if unknown_flags(verb, words)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_in_sentences_exist(page):
    every = {flag for verb in VERBS for flag in flags_of(verb)} | OF_OTHERS | {"--version"}
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = [span.split() for span in _SPAN.findall(prose)]
    assert not [words for words in spans if _FLAG.match(words[0]) and words[0].partition("=")[0] not in every]
    of_verbs = [(words[0], words[1:]) for words in spans if words[0] in VERBS and len(words) > 1]
    assert not [(verb, words) for verb, words in of_verbs if unknown_flags(verb, words)]


def test_a_flag_that_only_resembles_one_is_found():
    assert unknown_flags("run", ["-n", "4", "--run", "dag.py"]) == ["--run"]
    assert unknown_flags("status", ["--keep", "3"]) == ["--keep"]
    assert not unknown_flags("run", ["-n", "4", "dag.py", "--", "--anything"])


def messages():
    """Yield the texts of the package's code: all strings but docstrings, formatted ones in pieces."""
    for path in (ROOT / "handoff_mpi").rglob("*.py"):
        yield from facts_of(path).texts


def test_the_messages_of_the_troubleshooting_page_are_messages_of_ours():
    texts = list(messages())
    page = (ROOT / "handoff_mpi/manual/troubleshooting.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(rows) > 25
    assert not [row for row in rows if not any(row in text for text in texts)]
