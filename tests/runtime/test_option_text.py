"""One declaration of the options makes flags, variables, help texts, types and the page of the manual."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re

import pytest

import handoff_mpi
from handoff_mpi.flags import PREFIX, VERBS, add_options, verb_parser
from handoff_mpi.runtime.option_kinds import Kind, OneOf, WrongValue, YesNo
from handoff_mpi.runtime.option_text import options_page
from handoff_mpi.runtime.options import OPTIONS, SYNONYMS, RunOptions
from handoff_mpi.scheduler.policy import Policy
from tests.conftest import ROOT

PAGE = ROOT / "handoff_mpi" / "manual" / "options.md"
#: Lines between which the page lists the options, and those between which it lists the flags of commands.
MARKS = {part: (f"<!-- {part}: begin -->\n", f"<!-- {part}: end -->\n") for part in ("options", "flags")}


@pytest.mark.parametrize("documented", [handoff_mpi.execute, RunOptions])
def test_help_lists_every_option_with_its_unit_and_default(documented):
    _, _, section = inspect.getdoc(documented).partition("\nOptions:\n")
    entries = dict(re.findall(r"^    (\w+): ((?:.|\n     )*)", section, re.MULTILINE))
    assert list(entries) == list(OPTIONS)
    texts = {name: " ".join(text.split()) for name, text in entries.items()}
    assert "Default: 300 s." in texts["heartbeat_timeout"] and "Default: 3." in texts["max_retries"]
    assert "in MB" in texts["cache_size"] and "Default: '256MB'." in texts["cache_size"]
    assert [name for name, text in texts.items() if text.endswith("Python only.")] == [
        *("check", "result_store", "resource_tracker")
    ]
    assert texts["run_dir"].endswith("dag.py cannot set it.") and "cannot set it" not in texts["keep"]


def flags_page():
    """Return the commands with their arguments, and the flags that :data:`OPTIONS` does not declare."""
    return "\n\n".join("\n".join(lines_of(verb)) for verb in VERBS)


def lines_of(verb):
    """Yield how a command is called, and the table of its flags."""
    actions = [each for each in verb_parser(verb)._actions if each.help != argparse.SUPPRESS and each.dest != "help"]
    words = [f"[{each.metavar}]" if each.nargs == "?" else each.metavar for each in actions if not each.option_strings]
    is_of_runs = verb in ("run", "check")
    yield f"### {verb}"
    yield ""
    args = ["[-- ARGS]"] if any("dag.py" in word for word in words) else []
    args = ["[-- ARGS]"] if any("dag.py" in word for word in words) else []
    yield f"`{' '.join(['handoff-mpi', verb, *words, *args])}`" + (": the options above, and" if is_of_runs else "")
    own = [each for each in actions if each.option_strings and not (is_of_runs and each.dest in OPTIONS)]
    yield from ("", "| flag | meaning |", "|---|---|") if own else ()
    for action in own:
        value = f" {action.metavar}" if action.metavar and action.nargs != 0 else ""
        flags = ", ".join(f"`{flag}{value}`" for flag in action.option_strings)
        yield f"| {flags} | {action.help.replace('|', ', ')} |"


def current_page():
    page = PAGE.read_text()
    for part, text in {"options": options_page(OPTIONS.values()), "flags": flags_page()}.items():
        before, begin, rest = page.partition(MARKS[part][0])
        _, end, after = rest.partition(MARKS[part][1])
        assert begin and end
        page = f"{before}{begin}\n{text}\n\n{end}{after}"
    return page


def test_the_page_of_the_manual_lists_the_options_and_flags():
    assert PAGE.read_text() == current_page(), "write it again: python -m tests.runtime.test_option_text"


def test_flags_and_variables_are_those_of_the_options():
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    actions = [action for action in parser._actions if action.help is not argparse.SUPPRESS]
    assert [action.dest for action in actions] == [name for name, each in OPTIONS.items() if each.flag]
    for action in actions:
        option = OPTIONS[action.dest]
        assert action.option_strings == [option.flag] and option.variable == PREFIX + option.name.upper()
    assert OPTIONS["seed"].flag == "--no-seed" and OPTIONS["fresh"].flag == "--fresh"
    assert OPTIONS["check"].flag == OPTIONS["check"].variable == ""


@pytest.mark.parametrize("option", OPTIONS.values(), ids=list(OPTIONS))
def test_every_option_takes_its_own_default_and_says_what_it_is(option):
    assert option.kind.checked(option.name, option.default) == option.default
    assert option.about.endswith(".") and option.flag_help == option.flag_help.strip()
    assert isinstance(option.kind, Kind) and (option.kind.metavar or isinstance(option.kind, YesNo) or not option.flag)


def test_choices_are_written_as_type_checkers_know_them():
    for name, option in OPTIONS.items():
        if isinstance(option.kind, OneOf):
            for word in option.kind.words:
                assert option.kind.parse(word) == word and option.kind.checked(name, word) == word
            with pytest.raises(WrongValue, match=name):
                option.kind.checked(name, "neither")
            with pytest.raises(ValueError, match="is none of"):
                option.kind.parse("neither")


def test_the_scheduler_has_the_same_defaults():
    policy, options = Policy(), RunOptions()
    names = {field.name: field.name.removesuffix("_s") for field in dataclasses.fields(Policy)}
    shared = {name: option for name, option in names.items() if option in OPTIONS and name != "seed"}
    assert {"max_retries", "crash_limit", "heartbeat_timeout_s", "retry_on"} <= shared.keys()
    for name, option in shared.items():
        assert getattr(policy, name) == getattr(options, option), name


def test_no_word_of_other_tools_means_two_options():
    words = [word for option in OPTIONS.values() for word in option.other_words]
    assert len(words) == len(set(words)) == len(SYNONYMS)
    assert not SYNONYMS.keys() & OPTIONS.keys()


if __name__ == "__main__":
    PAGE.write_text(current_page())
