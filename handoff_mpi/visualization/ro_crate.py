"""A run as a Workflow Run RO-Crate (profile 0.5, https://w3id.org/ro/wfrun/workflow/0.5): what a repository archives.

The crate holds the file that made the DAG as its workflow, an action for each launch, all calls as a table, the graph
in WfFormat, and a README. It holds no values: those are pickles, which nobody should be given to open.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import duration_text, one_line
from handoff_mpi.results.story import LaunchStory, Story
from handoff_mpi.version import VERSION
from handoff_mpi.visualization.drawing import drawing_of
from handoff_mpi.visualization.drawing_text import text_lines
from handoff_mpi.visualization.graph_source import source_of_story
from handoff_mpi.visualization.trace import table_pieces
from handoff_mpi.visualization.wfformat import file_name, time_text, wfformat_pieces

METADATA, README, TABLE, WORKFLOW = "ro-crate-metadata.json", "README.md", "trace.tsv", "workflow.json"
_OWN_NAMES = (METADATA, README, TABLE, WORKFLOW)
_VERSION = "1.1"  # of RO-Crate, as profile 0.5 wants it
_WORKFLOW_PROFILE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
_WORKFLOW_PROFILE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    _WORKFLOW_PROFILE: ("Workflow RO-Crate", "1.0"),
}
_LANGUAGES = {
    "Python": "https://www.python.org",
    "WfFormat": "https://github.com/wfcommons/WfFormat",
}
#: The newest launches, each an action.
_MAX_LAUNCHES = 100
_STATUS = {"done": "CompletedActionStatus", "running": "ActiveActionStatus"}
_NO_LICENSE = "not stated; ask the owner of the run"


@dataclass(frozen=True, slots=True)
class CrateAbout:
    """The statements of a crate that a run does not know.

    Attributes:
        workflow: the file that made the DAG, and ``content``; None where it is not known: the graph stands for it.
        created_s: when the crate is made, in seconds since the epoch.
        license: a URL or text; empty if it is not stated.
        author: a name; empty if it is not stated.
        notes: what a reader should know of the workflow, one line each.
    """

    workflow: Path | None
    content: bytes
    created_s: float
    license: str = ""
    author: str = ""
    notes: list[str] = field(default_factory=list)


def refuse_without_library() -> None:
    """Refuse to make a crate without the library that it takes.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("rocrate") is None:
        what = "--rocrate needs the library rocrate: not installed"
        raise UsageError(f"{what}; install the extra `provenance`: pip install 'handoff_mpi[provenance]'")


def crate_files(story: Story, about: CrateAbout) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Yield the files of a crate, each with its pieces.

    Raises:
        UsageError: the library that it takes is not installed.
    """
    refuse_without_library()
    if about.workflow is not None:
        yield workflow_name(about.workflow), [about.content]
    yield WORKFLOW, wfformat_pieces(story, about.created_s)
    yield TABLE, table_pieces(story)
    yield README, [_readme(story).encode("utf-8", "backslashreplace")]
    yield METADATA, [json.dumps(_metadata(story, about), indent=2).encode()]


def workflow_name(path: Path) -> str:
    """Return the name of the workflow's file in the crate."""
    name = file_name(path.name).lstrip(".") or "dag.py"
    return f"dag-{name}" if name in _OWN_NAMES else name


def _readme(story: Story) -> str:
    lines = [line.plain for line in text_lines(drawing_of(source_of_story(story)))]
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    return "\n".join(["# A run of handoff_mpi", "", f"{fence}text", *lines, fence, ""])


def _metadata(story: Story, about: CrateAbout) -> dict[str, object]:
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version=_VERSION)
    source = source_of_story(story)
    root = crate.root_dataset
    root["name"], root["description"] = f"Run of {source.title}", drawing_of(source).summary
    root["datePublished"], root["license"] = time_text(about.created_s), _license(crate, about.license)
    entities = [
        crate.add(ContextEntity(crate, url, {"@type": "CreativeWork", "name": name, "version": version}))
        for url, (name, version) in _PROFILES.items()
    ]
    root["conformsTo"] = entities
    author = None
    if about.author:
        author = crate.add(ContextEntity(crate, "#author", {"@type": "Person", "name": about.author}))
        root["author"] = author
    workflow, files = _add_files(crate, story, about)
    actions = [
        _add_action(crate, launch, workflow, author, files if launch is story.launches[-1] else [])
        for launch in story.launches[-_MAX_LAUNCHES:]
    ]
    root["mentions"] = actions if len(actions) > 1 else actions[0]
    return dict(crate.metadata.generate())


def _license(crate: Any, text: str) -> object:
    from rocrate.model.contextentity import ContextEntity

    if text.startswith(("https://", "http://")):
        return crate.add(ContextEntity(crate, text, {"@type": "CreativeWork", "name": text}))
    return text or _NO_LICENSE


def _add_files(crate: Any, story: Story, about: CrateAbout) -> tuple[object, list[object]]:
    """Add the files; return the workflow, and what the run has told."""
    table = _file("All calls of the run, in the columns of Nextflow's trace file", "text/tab-separated-values")
    files = [crate.add_file(dest_path=TABLE, properties=table)]
    crate.add_file(dest_path=README, properties={**_file("What ran", "text/markdown"), "about": {"@id": "./"}})
    graph = _file("The graph of the run and the times of its functions, in WfFormat 1.5", "application/json")
    if about.workflow is None:
        return _add_workflow(crate, story, WORKFLOW, "WfFormat", graph), files
    files.append(crate.add_file(dest_path=WORKFLOW, properties=graph))
    told = _file("\n".join(["The file that made the DAG", *about.notes]), "text/x-python")
    told |= {"contentSize": str(len(about.content)), "version": f"sha256:{hashlib.sha256(about.content).hexdigest()}"}
    return _add_workflow(crate, story, workflow_name(about.workflow), "Python", told), files


def _file(description: str, encoding: str) -> dict[str, object]:
    return {"description": description, "encodingFormat": encoding}


def _add_workflow(crate: Any, story: Story, name: str, language: str, about: dict[str, object]) -> object:
    from rocrate.model.computationalworkflow import ComputationalWorkflow
    from rocrate.model.computerlanguage import ComputerLanguage

    url = _LANGUAGES[language]
    spoken = crate.add(ComputerLanguage(crate, url, properties={"name": language, "url": url}))
    launch = story.launches[-1]
    platform = f"handoff_mpi {launch.version or VERSION}" + (f", Python {launch.python}" if launch.python else "")
    properties = {"name": name, "runtimePlatform": one_line(platform, 100), **about}
    workflow = crate.add(ComputationalWorkflow(crate, dest_path=name, properties=properties))
    workflow["programmingLanguage"] = spoken
    crate.mainEntity = workflow
    crate.metadata["conformsTo"] = [{"@id": f"https://w3id.org/ro/crate/{_VERSION}"}, {"@id": _WORKFLOW_PROFILE}]
    crate.metadata["conformsTo"] = [{"@id": f"https://w3id.org/ro/crate/{_VERSION}"}, {"@id": _WORKFLOW_PROFILE}]
    return workflow


def _add_action(crate: Any, launch: LaunchStory, workflow: object, author: object, results: list[object]) -> object:
    verdict = one_line(launch.verdict, 40)
    hosts, ranks = len(set(launch.hosts.values())), len(launch.hosts)
    took = duration_text(launch.stopped_s - launch.started_s)
    told = f"Launch {launch.epoch}: {verdict} after {took}; functions: {launch.functions:,}"
    properties = {
        "name": f"launch {launch.epoch}",
        "description": f"{told}, done before: {launch.restored:,}; ranks: {ranks:,}, hosts: {hosts:,}",
        "startTime": time_text(launch.started_s),
        "actionStatus": f"http://schema.org/{_STATUS.get(verdict, 'FailedActionStatus')}",
    }
    if verdict != "running":
        properties["endTime"] = time_text(launch.stopped_s)
    if verdict not in _STATUS:
        properties["error"] = f"the run ended as {verdict}"
    action = crate.add_action(workflow, f"#launch-{launch.epoch}", properties=properties)
    if results:
        action["result"] = results
    if author is not None:
        action["agent"] = author
    return action
