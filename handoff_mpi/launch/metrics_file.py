"""Renews the file of ``--metrics-file`` while a run is running, and at its end.

The file is written by a thread, one at a time: a file system that does not answer keeps nobody from scheduling. What
cannot be written is said once, and tried again at the next renewal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path

from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import one_line
from handoff_mpi.results.whole_files import refuse_special, write_whole
from handoff_mpi.visualization.metrics import metrics_text, refuse_without_library

METRICS_INTERVAL_S = 15.0
#: The end of a run waits so long for the file at most.
_METRICS_END_TIMEOUT_S = 5.0
_MAX_CHARS = 300


class MetricsFile:
    """The file of one run.

    Args:
        path: where it is.
        say: prints a line.

    Attributes:
        run: the value of the label ``run``.

    Raises:
        UsageError: the library that it takes is not installed, or there cannot be such a file.
    """

    def __init__(self, path: str | PathLike[str], say: Callable[[str], object]) -> None:
        refuse_without_library()
        self.run = ""
        self._path = Path(path).absolute()
        self._say = say
        self._due_s = 0.0
        self._has_said = False
        self._writer: threading.Thread | None = None
        self._refuse_impossible()

    def _refuse_impossible(self) -> None:
        shown = one_line(str(self._path), _MAX_CHARS)
        try:
            refuse_special(self._path)
            if not self._path.parent.is_dir():
                raise UsageError(f"--metrics-file {shown}: there is no such directory; make it, or name another file")
        except OSError as error:
            raise UsageError(
                f"--metrics-file {shown} cannot be written: {error.strerror}; name another file"
            ) from error

    def renew(self, status: Mapping[str, object], now: float) -> None:
        """Write the file if that is due, and if nobody writes it still.

        Args:
            status: the fields of ``status.json``.
            now: seconds since the epoch.
        """
        is_writing = self._writer is not None and self._writer.is_alive()
        if now >= self._due_s and not is_writing:
            self._due_s = now + METRICS_INTERVAL_S
            self._start({**status, "status": "running"})

    def finish(self, status: Mapping[str, object]) -> None:
        """Write the file a last time.

        Args:
            status: the fields of the verdict.
        """
        for begins in (False, True):
            if begins:
                self._start(status)
            if self._writer is not None:
                self._writer.join(_METRICS_END_TIMEOUT_S)
                if self._writer.is_alive():
                    self._say_once("its file system does not answer")
                    return

    def _start(self, status: Mapping[str, object]) -> None:
        self._writer = threading.Thread(target=self._write, args=(status,), name="handoff-metrics", daemon=True)
        self._writer.start()

    def _write(self, status: Mapping[str, object]) -> None:
        try:
            write_whole(self._path, [metrics_text(self.run, status)])
        except OSError as error:
            self._say_once(error.strerror or type(error).__name__)
        except Exception as error:  # the library's own: metrics must not fail a run
            self._say_once(f"{type(error).__name__}: {error}")

    def _say_once(self, why: str) -> None:
        if not self._has_said:
            self._has_said = True
            shown = one_line(str(self._path), _MAX_CHARS)
            self._say(f"the metrics file {shown} cannot be written: {one_line(why, _MAX_CHARS)}; the run continues")
