"""The streams that stand for ``sys.stdout`` and ``sys.stderr`` while the output of calls is captured."""

from __future__ import annotations

import io
from typing import Protocol


class PrintedOutput(Protocol):
    """An output that streams write to: :class:`~handoff_mpi.worker.output.CallOutput`."""

    has_printed: bool

    def begin_to_print(self) -> None: ...
    def give_up(self, why: str) -> None: ...


class OutputStream(io.TextIOWrapper):
    """Stands for ``sys.stdout`` or ``sys.stderr`` while calls run: it notes writes, and fails none for lack of room."""

    def __init__(self, descriptor: int, output: PrintedOutput) -> None:
        raw = io.FileIO(descriptor, "w", closefd=False)
        super().__init__(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)
        self._output = output

    def write(self, text: str) -> int:
        if not self._output.has_printed:
            self._output.begin_to_print()
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._output.give_up(str(error.strerror))
        super().flush()  # what it holds goes nowhere, and would be tried again otherwise
