"""``help``: shows the manual that is installed with the package, page by page, and the help of other commands."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import resources

from handoff_mpi import flags
from handoff_mpi.errors import EXIT_DONE, UsageError
from handoff_mpi.formatting import show
from handoff_mpi.suggestions import KnownNames

#: Pages in the order in which a newcomer reads them; others follow.
_ORDER = (
    *("getting-started", "dag-files", "functions", "options", "resources-and-strategies", "results-and-resume"),
    *("fault-tolerance", "memory", "watching", "telemetry", "mpi-and-clusters", "troubleshooting", "extending"),
    *("testing", "performance", "security", "design", "contributing"),
)
#: Words that users may look for, by the page that has them.
_OTHER_WORDS = {
    "dag-files": "dag dags handles task",
    "resources-and-strategies": "cost costs resources strategies strategy scheduling gpu gpus",
    "results-and-resume": "results resume resuming journal checkpoint",
    "fault-tolerance": "failures failure retries retry deaths crash",
    "watching": "progress output",
    "telemetry": "events metrics prometheus opentelemetry handlers usage",
    "mpi-and-clusters": "mpi slurm srun hosts cluster clusters openmpi mpich cray modules apptainer singularity",
    "troubleshooting": "errors messages hang",
    "extending": "plugins stores trackers codecs",
}
_SYNONYMS = {word: topic for topic, words in _OTHER_WORDS.items() for word in words.split()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("topic", nargs="?", metavar="TOPIC", help="a page of the manual, or a command")


def main(given: argparse.Namespace) -> int:
    """List the pages, or show one; return the exit code.

    Raises:
        UsageError: there is no such page.
    """
    pages = read_pages()
    if given.topic is None:
        print(contents(pages))
        return EXIT_DONE
    if given.topic in flags.VERBS:
        flags.parse([given.topic, "--help"])
    topic = given.topic.lower().removesuffix(".md").replace("_", "-")
    if topic not in pages:
        hint = KnownNames([*pages, *flags.VERBS], _SYNONYMS, str).hint(topic)
        raise UsageError(f"the manual has no page {show(given.topic)}{hint}; `handoff-mpi help` lists the pages")
    _print_page(pages[topic])
    return EXIT_DONE


def read_pages() -> dict[str, str]:
    """Return topic to page (Markdown), in reading order."""
    files = resources.files("handoff_mpi").joinpath("manual").iterdir()
    pages = {
        each.name.removesuffix(".md"): each.read_text(encoding="utf-8") for each in files if each.name[-3:] == ".md"
    }
    return {topic: pages[topic] for topic in (*_ORDER, *sorted(pages.keys() - {*_ORDER}))}


def contents(pages: dict[str, str]) -> str:
    """Return the list of pages, with the title of each."""
    width = max(map(len, pages))
    lines = [f"  {topic:<{width}}  {page.partition(chr(10))[0].lstrip('# ')}" for topic, page in pages.items()]
    return "\n".join(
        [
            "The manual; `handoff-mpi help TOPIC` shows a page, `handoff-mpi help COMMAND` a command's options:",
            "",
            *lines,
        ]
    )


def _print_page(page: str) -> None:
    """Print a page: drawn, in the user's pager, at a terminal; as it is elsewhere."""
    if not sys.stdout.isatty():
        print(page, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    os.environ.setdefault("LESS", "FRX")  # or it would show colours as escape sequences
    console = Console()
    with console.pager(styles=True):
        console.print(Markdown(page))
