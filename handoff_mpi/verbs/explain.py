"""``explain``: why a function is not running, what happened to it, why it ran where it ran, and why it ran again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handoff_mpi.errors import EXIT_DONE, UsageError
from handoff_mpi.results.anybodys_story import damage_reported, read_anybodys_story
from handoff_mpi.results.function_story import FunctionStory, read_function
from handoff_mpi.results.live_questions import ANSWER_TIMEOUT_S, ask
from handoff_mpi.results.story import STATES
from handoff_mpi.verbs.element_text import element_facts, element_lines, failed_by_kind, failed_kind_lines
from handoff_mpi.verbs.explanation import explain_story
from handoff_mpi.verbs.explanation_text import explanation_lines
from handoff_mpi.verbs.reason_text import reason_lines
from handoff_mpi.verbs.run_dirs import OF_THE_RUN, find_run_dir_and_id, shown_run_dir
from handoff_mpi.verbs.run_explanation import explain_run, run_explanation_lines

_FINAL = ("done", "failed", "skipped")
_JOURNAL = "this answer is from its journal"
_ONLY_THE_OWNER = f"only the owner of the run can ask it; {_JOURNAL}"
_EPILOG = """\
While a run is running, explain asks it why the function does not run: which inputs are missing and what they wait for,
which resource is claimed on which host and by whom, how many functions come first, and what else holds it back (a
retry delay, a rank on probation or short of memory, the resource tracker, --max-concurrency). Only the owner of the run
can ask; all others read what the journal tells. An id is written as `handoff-mpi logs RUN-DIR` writes it. Without an
id, explain lists what has failed, what was skipped because of it, and which ranks were lost.

  handoff-mpi explain handoff-runs/20260131-120000
  handoff-mpi explain handoff-runs/20260131-120000 fit-3
  handoff-mpi explain handoff-runs/20260131-120000 "('fit', 3)" --json
  handoff-mpi explain handoff-runs/20260131-120000 'sweep[3,100:200]'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("run_dir", nargs="?", metavar="RUN-DIR", help=OF_THE_RUN)
    what = "id of a function, array or element, such as sweep[3] (default: explain what went wrong)"
    parser.add_argument("id", nargs="?", metavar="ID", help=what)
    parser.add_argument("--json", action="store_true", help="print it as data")


def main(given: argparse.Namespace) -> int:
    """Print what is known of a function, or of what went wrong in the run; return the exit code.

    Raises:
        UsageError: there is no such run, or no such function.
        JournalError: the journal cannot be read.
    """
    run_dir, id = find_run_dir_and_id(given.run_dir, given.id)
    with damage_reported(run_dir):
        if id is None:
            facts = explain_run(read_anybodys_story(run_dir), shown_run_dir(run_dir))
            lines = list(run_explanation_lines(facts))
        else:
            facts = _explain_function(run_dir, id, given)
            lines = [*_element_lines(id, facts), *explanation_lines(facts)]
            lines += failed_kind_lines(facts.get("failed_elements", ()))
    if given.json:
        lines = [json.dumps(facts)]
    print("\n".join(lines))
    return EXIT_DONE


def _explain_function(run_dir: Path, id: str, given: argparse.Namespace) -> dict[str, Any]:
    told, live, note = _find_out(run_dir, id)
    facts = explain_story(told, _shown(run_dir, given))
    if live is not None:
        facts |= {"state": live["state"], "live": live}
    facts["notes"] += [note] if note else []
    if told.elements is not None:
        hosts = {launch.epoch: launch.hosts for launch in told.story.launches}
        facts["of_elements"] = element_facts(told.elements, hosts, live)
    elif facts["elements"] is not None and facts["state"] == "failed":
        facts["failed_elements"] = failed_by_kind(read_function(run_dir, f"{facts['id']}[:]").elements or ())
    return facts


def _element_lines(name: str, facts: dict[str, Any]) -> Iterator[str]:
    if "of_elements" in facts:
        is_running = facts["run"]["state"] == "running"
        yield from element_lines(name, facts["of_elements"], facts["state"], is_running)


def _find_out(run_dir: Path, id: str) -> tuple[FunctionStory, dict[str, object] | None, str]:
    """Return a function's story, what the run answers, and why it does not answer, if it should."""
    told = read_function(run_dir, id)
    if _is_settled(told):
        return told, None, ""
    live, note = _ask(run_dir, told)
    if live is None or live["state"] in _FINAL:
        told = read_function(run_dir, id)  # something has ended meanwhile
        return told, None, "" if _is_settled(told) else note
    return told, live, ""


def _is_settled(told: FunctionStory) -> bool:
    """Whether the run or the function has ended, or the newest launch does not hold it: the journal tells all."""
    state = STATES[int(told.story.tasks.state[told.task])]
    return state in _FINAL or not told.story.launches[-1].is_running or told.launches[-1].number is None


def _ask(run_dir: Path, told: FunctionStory) -> tuple[dict[str, object] | None, str]:
    if not told.is_own:
        return None, _ONLY_THE_OWNER
    own = told.launches[-1]
    question = {"task": own.number, "id": told.story.tasks.ids[told.task], "launch": own.epoch}
    try:
        answer = ask(run_dir, question, ANSWER_TIMEOUT_S)
    except PermissionError:
        return None, _ONLY_THE_OWNER
    except OSError as error:
        return None, f"the run cannot be asked: {error.filename or run_dir}: {error.strerror}; {_JOURNAL}"
    except UsageError as error:
        return None, f"the run cannot be asked: {error}; {_JOURNAL}"
    if answer is None:
        return None, f"the run did not answer within {ANSWER_TIMEOUT_S:g} s; {_JOURNAL}"
    if "error" in answer:
        return None, f"the run cannot answer: {answer['error']}; {_JOURNAL}"
    try:
        list(reason_lines(answer))
    except Exception:  # another version of handoff_mpi runs it
        return None, f"the answer of the run cannot be read by this version of handoff_mpi; {_JOURNAL}"
    return answer, ""


def _shown(run_dir: Path, given: argparse.Namespace) -> str:
    """Return the run-dir as the user would name it."""
    return str(given.run_dir) if given.id is not None else shown_run_dir(run_dir)
