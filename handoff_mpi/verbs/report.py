"""``report``: make a page of what happened in a run, and a trace and a table of its calls."""

from __future__ import annotations

import argparse
import errno
import gzip
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from handoff_mpi.errors import EXIT_DONE, UsageError
from handoff_mpi.formatting import one_line
from handoff_mpi.results.secure_files import open_directory
from handoff_mpi.results.story_reader import read_story
from handoff_mpi.verbs.run_dirs import OF_THE_RUN, find_run_dir
from handoff_mpi.visualization.report.page import make_page, refuse_without_libraries
from handoff_mpi.visualization.trace import table_pieces, trace_pieces

REPORT, TRACE, TABLE = "report.html", "trace.json", "trace.tsv"
#: A trace of more calls is compressed, and is made only where it is asked for.
MAX_CALLS = 100_000
_CHUNK = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``report``."""
    parser.add_argument("run_dir", nargs="?", metavar="RUN-DIR", help=OF_THE_RUN)
    parser.add_argument(
        "--output", metavar="FILE", help=f"write the page to this file (default: {REPORT} in the run-dir)"
    )
    what = f"make {TRACE} for Perfetto too; compressed, as {TRACE}.gz, beyond {MAX_CALLS:,} calls"
    parser.add_argument("--trace", action="store_true", help=what)
    parser.add_argument("--tsv", action="store_true", help=f"make {TABLE} too: a table of all calls, like Nextflow's")


def main(given: argparse.Namespace) -> int:
    """Make what is asked for, and print where it is.

    Raises:
        UsageError: there is no such run, or a library is missing, or a file cannot be written.
        JournalError: the journal cannot be read.
    """
    run_dir = find_run_dir(given.run_dir)
    refuse_without_libraries()
    story = read_story(run_dir)
    output = run_dir / REPORT if given.output is None else Path(given.output).absolute()
    written = [write(output, [make_page(story)])]
    if given.trace or given.tsv:
        if given.trace:
            is_large = len(story.calls) > MAX_CALLS
            written.append(write(output.with_name(f"{TRACE}.gz" if is_large else TRACE), trace_pieces(story)))
        if given.tsv:
            written.append(write(output.with_name(TABLE), table_pieces(story)))
    for path in written:
        print(one_line(str(path)))
    return EXIT_DONE


def write(path: Path, pieces: Iterable[bytes]) -> Path:
    """Write a file piece by piece, whole or not at all, compressed if its name says so; return its path.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with open_directory(path.parent) as directory:
            fd, partial = directory.create_partial(path.name)
            try:
                with os.fdopen(fd, "wb", _CHUNK) as file:
                    _write(file, pieces, path.suffix == ".gz")
                directory.replace(partial, path.name)
            except BaseException:
                directory.remove(partial)
                raise
    except OSError as error:
        what = f"cannot write {one_line(str(path), 300)}: {error.strerror}"
        raise UsageError(f"{what}; name another file with --output FILE") from error
    return path


def _write(file: IO[bytes], pieces: Iterable[bytes], is_compressed: bool) -> None:
    if not is_compressed:
        file.writelines(pieces)
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=5, mtime=0) as packed:
        pending, size = [], 0
        for piece in pieces:  # many small ones: packing them one by one takes several times as long
            pending.append(piece)
            size += len(piece)
            if size >= _CHUNK:
                packed.write(b"".join(pending))
                pending, size = [], 0
        packed.write(b"".join(pending))
