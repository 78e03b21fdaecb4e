"""Style, types and the floors of the house are part of the tests."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, missing, run_process
from tests.covered_by import COVERED_BY
from tests.import_graph import circles, import_graph
from tests.source_facts import facts_of

CHECKS = {
    "ruff": ["ruff", "check", "."],
    "mypy": ["mypy"],
    "import-linter": ["lint-imports"],
    "shellcheck": ["shellcheck", "slurm/run.sbatch", "handoff_mpi/launch/component_agent.sh", ".ci/run"],
}


@pytest.mark.parametrize("tool", CHECKS)
def test_the_tree_passes(tool):
    command = CHECKS[tool]
    program = shutil.which(command[0], path=str(Path(sys.executable).parent)) or shutil.which(command[0])
    if program is None:
        missing(tool)
    ended = run_process([program, *command[1:]], ROOT, 240, {"PYTHONPATH": str(ROOT)})
    assert ended.rc == 0, ended.out + ended.err


def test_importing_the_package_does_not_start_mpi(tmp_path):
    names = "('mpi4py.MPI', 'cupy', 'networkx', 'numpy')"
    code = f"import handoff_mpi, sys; print([m for m in {names} if m in sys.modules])"
    ended = run_process([sys.executable, "-c", code], tmp_path)
    assert ended.out.strip() == "[]", ended.err


def test_the_manual_draws_the_lifecycle_from_the_table():
    from handoff_mpi.scheduler.lifecycle import mermaid

    assert mermaid() in (ROOT / "handoff_mpi" / "manual" / "design.md").read_text()


def test_the_package_is_typed():
    origin = importlib.util.find_spec("handoff_mpi").origin
    assert (Path(origin).parent / "py.typed").exists()


# -- circles of imports ------------------------------------------------------------------------------------


def test_no_modules_import_each_other():
    graph = import_graph(ROOT / "handoff_mpi")
    assert circles(graph) == [], "move what both need into a module of its own, or hand it over as an argument"


@pytest.mark.parametrize(
    "back",
    [
        "from package.one import One",
        "from package import one",
        "import package.one",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.one import One",
        "def later():\n    from package.one import One",
    ],
)
def test_a_circle_is_found_however_it_is_closed(tmp_path, back):
    package = tmp_path / "package"
    package.mkdir()
    modules = {"__init__": "", "one": "from package.two import Two", "two": "from package.three import Three"}
    for name, text in {**modules, "three": back, "apart": "from package.one import One"}.items():
        (package / f"{name}.py").write_text(text)
    assert circles(import_graph(package)) == [["package.one", "package.three", "package.two"]]


# -- the glossary ------------------------------------------------------------------------------------------

#: Private jargon, and the standard term that stands for it; in names (as parts of them), sentences, messages and pages.
JARGON = {
    "bays?": "resource group",
    "seats?": "rank state",
    "seating": "topology",
    "couriers?": "dispatcher",
    "chronicles?": "journal writer",
    "attendants?": "progress thread",
    "vigils?": "monitor of rank 0",
    "bells?": "doorbell",
    "recipes?": "call template",
    "setbacks?": "incidents, retries",
    "tickets?": "request id",
    "tenure": "lease",
    "dice": "random numbers, rng",
    "whoever|whomever|whatever|whichever": "name the actor, or any",
    "rides? home|rode home": "is sent inline to rank 0",
    "not to be had": "unavailable",
    "(is|are|was|were|be|been|being) told": "receives, reports",
    "(go|goes|went|going) on": "continue",
    "(is|are|was|were|be|been) gone": "no longer exists, has ended",
    "(come|comes|came|coming) to nothing": "fails",
    "anew": "again",
    "deaf": "cannot receive messages",
    "dear|dearer|dearest": "expensive",
}
#: An old name that the package still serves is written with these words, in these places.
SERVED = {
    "handoff_mpi/results/results.py": {"setbacks"},
    "tests/test_old_names.py": {"setbacks"},
}
_PARTS = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(JARGON)})(?![A-Za-z])", re.IGNORECASE)
#: Sentences begin with their subject.
NEW_LINE = "\n"
_HEADLESS = re.compile(r"^(What|Who|Whoever|Whether what) (?!if\b).*[^?]$")
PAGES = [
    *sorted((ROOT / "handoff_mpi").rglob("*.py")),
    *sorted((ROOT / "handoff_mpi/manual").glob("*.md")),
    ROOT / "README.md",
]


#: The tests speak as the package does; this file names the words that they avoid.
TESTS = [path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__).resolve()]


@pytest.mark.parametrize("path", [*PAGES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_those_of_the_glossary(path):
    served, text = SERVED.get(str(path.relative_to(ROOT)), set()), path.read_text()
    matches = [match for match in _PARTS.finditer(text) if match.group() not in served]
    found = {f"{1 + text.count(NEW_LINE, 0, match.start())}: {match.group()}" for match in matches}
    assert not found, f"words that the glossary replaces: {sorted(found)}"


@pytest.mark.parametrize(
    "path", [each for each in [*PAGES, *TESTS] if each.suffix == ".py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_docstrings_begin_with_their_subject(path):
    headless = [line for line in facts_of(path).first_lines if _HEADLESS.match(line)]
    assert not headless, headless


def constants() -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of each constant of the package."""
    for path in sorted((ROOT / "handoff_mpi").rglob("*.py")):
        yield from ((name, path) for name in facts_of(path).constants)


def test_limits_are_named_max_and_min():
    others = re.compile(r"(^|_)(MOST|LEAST|LONGEST|SHORTEST|LARGEST|SMALLEST|FEWEST)(_|$)")
    assert not [(name, str(path)) for name, path in constants() if others.search(name)]


def test_each_time_constant_is_defined_once():
    places = defaultdict(set)
    for name, path in constants():
        if name.endswith("_S"):
            places[name.lstrip("_")].add(str(path.relative_to(ROOT)))
    assert not {name: where for name, where in places.items() if len(where) > 1}


# -- sizes -------------------------------------------------------------------------------------------------

MAX_LINES = 450
MAX_BODY_LINES = 43


def test_no_file_is_longer_than_a_reader_keeps_in_mind():
    files = sorted((ROOT / "handoff_mpi").rglob("*.py"))
    longer = [str(path.relative_to(ROOT)) for path in files if len(path.read_text().splitlines()) > MAX_LINES]
    assert not longer, "split a file along a seam"


def test_no_body_is_longer_than_a_screen():
    files = sorted((ROOT / "handoff_mpi").rglob("*.py"))
    bodies = [(path, name, lines) for path in files for name, lines in facts_of(path).lengths]
    longer = [f"{path.relative_to(ROOT)}: {name}" for path, name, lines in bodies if lines > MAX_BODY_LINES]
    assert not longer, "name the steps of a long function, and make each a function of its own"


# -- tests of modules ------------------------------------------------------------------------------------------

MODULES = sorted(path for path in (ROOT / "handoff_mpi").rglob("*.py") if not path.name.startswith("__"))
TEST_NAMES = {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def has_tests_of_its_name(path):
    """Whether there is a test file of its name: in its room, or in any if no other module has that name."""
    room = path.parent.relative_to(ROOT / "handoff_mpi")
    name, is_unique = f"test_{path.name}", sum(each.name == path.name for each in MODULES) == 1
    return (ROOT / "tests" / room / name).exists() or (is_unique and name in TEST_NAMES)


def test_each_module_has_a_test_file_of_its_name_or_a_line_that_names_another():
    without = [path for path in MODULES if facts_of(path).does_anything and not has_tests_of_its_name(path)]
    others = {str(path.relative_to(ROOT / "handoff_mpi")) for path in without}
    assert not others - COVERED_BY.keys(), "write a test file for them, or add the file that covers them to COVERED_BY"
    assert not COVERED_BY.keys() - others, "lines that are superfluous by now"
    assert not [file for file in COVERED_BY.values() if not (ROOT / "tests" / file).exists()], "they do not exist"
