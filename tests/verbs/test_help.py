"""``handoff-mpi help``: the pages of the manual at the terminal."""

from __future__ import annotations

import os
import sys

import pytest

from handoff_mpi import cli
from handoff_mpi.verbs.help import find_flag, find_sections, listed, read_pages
from tests.conftest import run_process
from tests.terminal import Terminal

HELP = [sys.executable, "-m", "handoff_mpi", "help"]


def test_the_topics_are_listed_with_their_titles(tmp_path):
    ended = run_process(HELP, tmp_path)
    assert ended.rc == 0, ended.err
    lines = [line.split(maxsplit=1) for line in ended.out.splitlines()[2:]]
    assert lines[0] == ["getting-started", "Getting started"]
    assert {"options", "fault-tolerance", "mpi-and-clusters", "performance", "design"} <= {line[0] for line in lines}


@pytest.mark.long
@pytest.mark.parametrize("topic", ["security", "Security", "security.md", "mpi_and_clusters"])
def test_a_page_is_printed_as_it_is_where_there_is_no_terminal(topic, tmp_path):
    ended = run_process([*HELP, topic], tmp_path)
    assert ended.rc == 0, ended.err
    assert ended.out.startswith("# ") and "\x1b" not in ended.out


@pytest.mark.long
def test_a_page_is_drawn_at_a_terminal(tmp_path):
    terminal = Terminal([*HELP, "security"], tmp_path, env={"PAGER": "printenv LESS; cat"})
    code = terminal.end()
    terminal.close()
    assert code == 0
    assert b"Security" in terminal.raw and b"# Security" not in terminal.raw
    assert b"\x1b[" in terminal.raw and os.environ.get("LESS", "FRX").encode() in terminal.raw


@pytest.mark.long
def test_a_command_shows_its_options(tmp_path):
    ended = run_process([*HELP, "status"], tmp_path)
    assert ended.rc == 0, ended.err
    assert ended.out.startswith("usage: handoff-mpi status")


@pytest.mark.parametrize(
    ("topic", "meant"), [("optoins", "options"), ("statsu", "status"), ("prometeus", "telemetry"), ("\x1b[2J", "")]
)
def test_an_unknown_topic_is_refused_with_the_nearest(topic, meant, capsys):
    assert cli.main(["help", topic]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "\x1b" not in told
    assert "the manual has no page" in told and f"did you mean {meant}" * bool(meant) in told


@pytest.mark.parametrize(
    ("word", "page"),
    [("resume", "results-and-resume"), ("Retry", "fault-tolerance"), ("GPU", "resources-and-strategies")],
)
def test_a_word_that_users_look_for_shows_its_page(word, page, capsys):
    assert cli.main(["help", word]) == 0
    assert capsys.readouterr().out == read_pages()[page]


def test_any_other_word_shows_the_page_or_the_sections_that_have_it():
    pages = {
        "one": "# One\n\nIt flies.\n\n## Wings\n\nFlying and flying.\n```\n# no title\nfly()\n```\n",
        "two": "# Two\n\nA butterfly: a butter-fly.\n",
        "three": "# Fly\n",
    }
    assert find_sections(pages, "FLY") == {"one": ["Wings"], "two": ["Two"], "three": ["Fly"]}
    assert find_sections(pages, "fl") == {"one": ["One", "Wings"], "two": ["Two"], "three": ["Fly"]}
    assert find_sections(pages, "f(") == {}
    assert listed({"one": ["One", "Wings"], "three": ["Fly"]}, "fl").splitlines()[2:] == [
        "  one    One",
        "  one    Wings",
        "  three  Fly",
    ]


def test_mpi_is_never_imported(tmp_path):
    code = "import sys\nfrom handoff_mpi import cli\ncli.main(['help', 'design'])\nassert 'mpi4py' not in sys.modules"
    ended = run_process([sys.executable, "-c", code], tmp_path)
    assert ended.rc == 0, ended.err


@pytest.mark.parametrize(
    "words", [["max-retries"], ["max_retries"], ["--max-retries"], ["max", "retries"]], ids=" ".join
)
def test_a_flag_is_found_as_it_is_written_and_as_its_keyword(words, in_process, capsys):
    assert cli.main(["help", *words]) == 0
    assert "  options  " in capsys.readouterr().out


def test_a_word_with_dashes_is_looked_up_as_a_flag_first(capsys):
    pages = {
        "one": "# One\n\nIt may kill a rank.\n\n## Flags\n\n`--kill-on-bad-exit=1` and `-n 4`; `--no-kill`.\n",
        "two": "# Two\n\nIt kills -now, by `--max_kills`.\n",
    }
    assert find_flag(pages, "--kill") == {"one": ["Flags"]}
    assert find_flag(pages, "--kill_on") == {"one": ["Flags"]}
    assert find_flag(pages, "-n") == {"one": ["Flags"]}, "a flag of one letter is no beginning of others"
    assert find_flag(pages, "kill") == find_flag(pages, "--kills") == find_flag(pages, "--") == {}
    assert cli.main(["help", "--rerun"]) == 0
    assert "  options             Options of a run" in capsys.readouterr().out
    assert cli.main(["help", "--options"]) == 0
    assert capsys.readouterr().out == read_pages()["options"], "no flag begins so, but a page does"


def test_a_part_of_a_flag_is_found(capsys):
    assert cli.main(["help", "relaunches"]) == 0
    assert "mpi-and-clusters" in capsys.readouterr().out
