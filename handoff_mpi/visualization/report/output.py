"""Reads the output of failed calls, for the table of failures, from the files that keep the output of functions."""

from __future__ import annotations

from handoff_mpi.formatting import id_text, without_controls
from handoff_mpi.results.output_files import OutputDirectory, Printed, file_name, text_of
from handoff_mpi.results.story import Story
from handoff_mpi.visualization.report.failure_table import FailureRow

#: Indexes of output that are larger are not read: that takes a second for some hundred thousand lines.
_MAX_INDEX_NBYTES = 32_000_000
_MAX_CHARS = 4_000


def add_output(story: Story, rows: list[FailureRow]) -> None:
    """Add to each row what its first call printed, where that was captured."""
    try:
        directory = OutputDirectory(story.run_dir)
    except OSError:
        return
    with directory:
        printed = _printed_on(directory, {int(story.calls.rank[row.first]) for row in rows if row.first >= 0})
        for row in rows:
            if row.first < 0:
                continue
            task, launch = int(story.calls.task[row.first]), story.launches[story.calls.launch[row.first]].epoch
            key = id_text(story.tasks.ids[task]), launch, int(story.calls.attempt[row.first])
            row.output = without_controls(_last(text_of(directory, printed.get(key, ()))))


def _printed_on(directory: OutputDirectory, ranks: set[int]) -> dict[tuple[str, int, int], list[Printed]]:
    """Return what was printed on some ranks, by id, launch and attempt."""
    found: dict[tuple[str, int, int], list[Printed]] = {}
    left = _MAX_INDEX_NBYTES
    for name in directory.names():
        if any(name == file_name(rank) or name.startswith(f"{file_name(rank)}.") for rank in ranks):
            left -= _size_of_index(directory, name)
            if left < 0:
                break
            for each in directory.printed(name):
                found.setdefault((each.id, each.launch, each.attempt), []).append(each)
    return found


def _size_of_index(directory: OutputDirectory, name: str) -> int:
    try:
        with directory.open(f"{name}.index") as file:
            return file.seek(0, 2)
    except OSError:
        return 0


def _last(text: str) -> str:
    return (
        text
        if len(text) <= _MAX_CHARS
        else f"... {len(text) - _MAX_CHARS:,} characters before ...\n{text[-_MAX_CHARS:]}"
    )
