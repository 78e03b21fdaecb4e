"""The output of functions as results give it: that of one function, of an array, or of one of its elements."""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path

from handoff_mpi.arrays.element_names import element_name
from handoff_mpi.errors import ValueUnavailable
from handoff_mpi.formatting import MAX_ID_CHARS, id_text, show
from handoff_mpi.results.function_error import FunctionError
from handoff_mpi.results.output_files import OutputDirectory, Printed, text_of

#: So many errors get the last lines of their output.
MAX_OUTPUTS = 1000


class PrintedOutput:
    """The output of the functions of one run.

    Args:
        run_dir: of the run, if it has one.
        mode: what became of the output; "off" where it was not kept.
    """

    def __init__(self, run_dir: Path | None, mode: str) -> None:
        self._run_dir = None if mode == "off" else run_dir
        self._by_id: dict[str, list[Printed]] | None = None

    def exists(self) -> bool:
        """Whether any function has printed anything that was kept."""
        if self._run_dir is None:
            return False
        try:
            with OutputDirectory(self._run_dir) as directory:
                return directory.has_output()
        except OSError:
            return False  # no function has printed anything

    def of(self, id: Hashable, is_array: bool, attempt: int | None, launch: int | None) -> str:
        """Return the output of the function or the element ``id``, of an array that of its elements in their order.

        Args:
            attempt, launch: as of :meth:`Results.output`.

        Raises:
            ValueUnavailable: the run has not captured output.
        """
        if self._run_dir is None:
            raise ValueUnavailable(f"the output of {show(id)} was not captured: run with output='capture'")
        found = self._of_id(id)
        found = _chosen([*found, *self._of_elements(id)] if is_array else found, attempt, launch)
        if not found:
            return ""
        with OutputDirectory(self._run_dir) as directory:
            return text_of(directory, found)

    def add_to(self, errors: Mapping[Hashable, FunctionError]) -> None:
        """Give errors that were read from the journal the last lines that their attempts printed."""
        for id, error in itertools.islice(errors.items(), MAX_OUTPUTS):
            error.output = self.last_lines(id, error.attempts)

    def last_lines(self, id: Hashable, attempt: int) -> str:
        """Return the last lines that an attempt printed; empty if it printed nothing that was kept."""
        printed = [] if self._run_dir is None else _chosen(self._of_id(id), attempt, None)
        if not printed or self._run_dir is None:
            return ""
        with OutputDirectory(self._run_dir) as directory:
            return directory.last_lines(printed[-1])

    def _of_id(self, id: Hashable) -> list[Printed]:
        """Return what a function printed, or an element, which older versions called by its id."""
        found = self._index().get(id_text(id), [])
        if type(id) is tuple and len(id) == 2 and type(id[1]) is int:
            return [*found, *self._index().get(element_name(*id), [])]
        return found

    def _of_elements(self, id: Hashable) -> Iterable[Printed]:
        older, name = re.escape(show(id, MAX_ID_CHARS)), re.escape(id_text(id))
        element = re.compile(rf"{name}\[(\d+)\]|\({older}, (\d+)\)")
        matches = [(each, element.fullmatch(each)) for each in self._index()]
        by_index = sorted((int(match[1] or match[2]), each) for each, match in matches if match is not None)
        return itertools.chain.from_iterable(self._index()[each] for _, each in by_index)

    def _index(self) -> dict[str, list[Printed]]:
        if self._by_id is None:
            self._by_id = {}
            assert self._run_dir is not None
            try:
                with OutputDirectory(self._run_dir) as directory:
                    for each in sorted(directory.all_printed(), key=lambda each: (each.launch, each.attempt)):
                        self._by_id.setdefault(each.id, []).append(each)
            except OSError:
                pass  # no function has printed anything
        return self._by_id


def _chosen(printed: list[Printed], attempt: int | None, launch: int | None) -> list[Printed]:
    found = [each for each in printed if launch in (None, each.launch) and attempt in (None, each.attempt)]
    if attempt is not None:
        last = {each.id: each.launch for each in found}  # they are in the order of launches
        found = [each for each in found if each.launch == last[each.id]]
    return found
