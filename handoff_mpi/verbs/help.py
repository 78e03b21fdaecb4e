"""``help``: shows the manual that is installed with the package, page by page or by a word, and other commands."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from importlib import resources

from handoff_mpi import flags
from handoff_mpi.errors import EXIT_DONE, UsageError
from handoff_mpi.formatting import one_line, show
from handoff_mpi.suggestions import KnownNames

#: Pages in the order in which a newcomer reads them; others follow.
_ORDER = (
    *("getting-started", "dag-files", "functions", "arrays", "options", "resources-and-strategies"),
    *("results-and-resume", "fault-tolerance", "memory", "watching", "telemetry", "mpi-and-clusters"),
    *("troubleshooting", "extending", "testing", "performance", "security", "design", "contributing"),
)
#: Words that users may look for, by the page that each means, though others have them too.
_OTHER_WORDS = {
    "getting-started": "start tutorial example examples",
    "dag-files": "dag dags handles task tasks",
    "functions": "function arguments isolation",
    "arrays": "array map element elements sweep sweeps fixed chunk",
    "options": "option flag flags variables environment",
    "resources-and-strategies": "cost costs resource resources strategies strategy scheduling gpu gpus cores",
    "results-and-resume": "result results resume resuming restart journal checkpoint checkpoints rerun fresh",
    "fault-tolerance": "failures failure retries retry deaths crash crashes",
    "memory": "ram",
    "watching": "watch progress output status logs report graph",
    "telemetry": "events metrics prometheus opentelemetry handlers usage",
    "mpi-and-clusters": "mpi slurm srun hosts cluster clusters openmpi mpich cray modules apptainer singularity",
    "troubleshooting": "error errors messages hang",
    "extending": "plugins stores trackers codecs",
    "testing": "test tests",
    "performance": "speed fast slow",
}
_PAGE_OF_WORD = {word: topic for topic, words in _OTHER_WORDS.items() for word in words.split()}
#: Of a word that several pages have, so many sections are listed.
_MAX_SECTIONS = 30
_FENCE = re.compile(r"^(```|~~~)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    what = "a page of the manual, words of one, or a command"
    parser.add_argument("topic", nargs="*", metavar="TOPIC", help=what)


def main(given: argparse.Namespace) -> int:
    """List the pages, or show one, or the sections that have a word; return the exit code.

    Raises:
        UsageError: there is no such page, and no page has the word.
    """
    pages = read_pages()
    wanted = " ".join(given.topic).strip()
    if not wanted:
        print(contents(pages))
        return EXIT_DONE
    if wanted in flags.VERBS:
        flags.parse([wanted, "--help"])
    topic = re.sub(r"[_\s]+", "-", wanted.lower().removesuffix(".md").lstrip("-"))
    topic = _PAGE_OF_WORD.get(topic, topic)
    found = find_flag(pages, wanted)
    if not found:
        found = {topic: []} if topic in pages else find_sections(pages, wanted)
    if len(found) == 1:
        _print_page(pages[next(iter(found))])
    elif found:
        print(listed(found, wanted))
    else:
        hint = KnownNames([*pages, *flags.VERBS], _PAGE_OF_WORD, str).hint(topic)
        raise UsageError(f"the manual has no page {show(wanted)}{hint}; `handoff-mpi help` lists the pages")
    return EXIT_DONE


def find_sections(pages: Mapping[str, str], word: str) -> dict[str, list[str]]:
    """Return the topics of the pages that have ``word``, or several, with the titles of the sections.

    It is looked for at the beginning of the words of the page, and of the parts of names and flags: ``max-retries``,
    ``max_retries`` and ``--max-retries`` are one.
    """
    parts = [re.escape(part) for part in re.split(r"[-_\s]+", word) if part] or [re.escape(word)]
    return _find(pages, re.compile(rf"(?<![A-Za-z0-9]){'[-_ ]'.join(parts)}", re.IGNORECASE))


def find_flag(pages: Mapping[str, str], word: str) -> dict[str, list[str]]:
    """Return the same for a flag, written with its dashes, or for those that begin with ``word``: ``--max``."""
    flag = word.replace("_", "-")
    if re.fullmatch(r"--[A-Za-z][\w-]*", flag):
        return _find(pages, re.compile(rf"(?<![\w-]){flag}", re.IGNORECASE))
    return _find(pages, re.compile(rf"(?<![\w-]){flag}(?![\w-])")) if re.fullmatch("-[A-Za-z]", flag) else {}


def _find(pages: Mapping[str, str], wanted: re.Pattern[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for topic, page in pages.items():
        title, in_code = "", False
        for line in page.splitlines():
            in_code ^= bool(_FENCE.match(line))
            if line.startswith("#") and not in_code:
                title = line.lstrip("# ")
            if wanted.search(line) and title not in found.setdefault(topic, []):
                found[topic].append(title)
    return {topic: titles for topic, titles in found.items() if titles}


def listed(found: Mapping[str, list[str]], word: str) -> str:
    """Return a line for each section that has ``word``."""
    width = max(map(len, found))
    lines = [f"  {topic:<{width}}  {title}" for topic, titles in found.items() for title in titles]
    more = [f"  and {len(lines) - _MAX_SECTIONS} more sections"] if len(lines) > _MAX_SECTIONS else []
    head = f"{show(one_line(word))} stands in these sections; `handoff-mpi help TOPIC` shows a page:"
    return "\n".join([head, "", *lines[:_MAX_SECTIONS], *more])


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
