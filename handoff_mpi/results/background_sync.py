"""Has the disk take what was written to a file, in a thread: that may take long, and the caller has other work."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundSync:
    """At most one sync of a file at a time."""

    def __init__(self) -> None:
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a sync has begun whose end nobody has waited for."""
        return self._thread is not None or self._error is not None

    @property
    def is_running(self) -> bool:
        """Whether a sync has begun and not ended."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, sync: Callable[[], None]) -> None:
        """Begin a sync; none is running, and :meth:`end` was called since the last one.

        Args:
            sync: called in the thread; returns once the disk has what was written before, or raises OSError. It is not
                kept: a method of the owner of this object would form a reference cycle.
        """
        self._thread = threading.Thread(target=self._run, args=(sync,), name="handoff-sync", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the limit of threads is reached
            self._thread = None
            self._run(sync)

    def end(self) -> None:
        """Wait until the sync that was begun last has ended, if one was.

        Raises:
            OSError: it has failed; a second call does not raise that again.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, sync: Callable[[], None]) -> None:
        try:
            sync()
        except OSError as error:
            self._error = error
