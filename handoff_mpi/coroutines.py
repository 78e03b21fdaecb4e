"""Runs the coroutine that an ``async def`` function returns to its end, so that such a function is called as any other.

asyncio is imported with the first coroutine: few DAGs have one, and every rank and child imports this module.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType, GeneratorType
from typing import Any

#: A coroutine is of one of these types; with ``types.coroutine`` it is a generator.
COROUTINE_TYPES = frozenset({CoroutineType, GeneratorType})
#: An interrupted coroutine in another thread gets this long to end.
CANCEL_TIMEOUT_S = 5.0


def is_coroutine(value: Any) -> bool:
    """Whether ``value`` must be awaited, and has not been: the result of an ``async def`` function, for one."""
    if type(value) is CoroutineType:
        return True
    return type(value) is GeneratorType and bool(value.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def run_coroutine(coroutine: Awaitable[Any]) -> Any:
    """Run ``coroutine`` in an event loop of its own and return its result; what it raises is raised.

    Where a loop runs in this thread already, as in a notebook, another thread runs it, with the same context variables.

    Raises:
        KeyboardInterrupt: the user has interrupted this process; the coroutine was cancelled.
    """
    import asyncio

    settled = _settle(coroutine)
    value, error = _run_in_thread(settled) if _has_running_loop() else asyncio.run(settled)
    if error is not None:
        raise error
    return value


async def _settle(coroutine: Awaitable[Any]) -> tuple[Any, Exception | None]:
    """Return the result, or the error: raised through asyncio, it would get asyncio's frames into its traceback."""
    try:
        return await coroutine, None
    except Exception as error:
        return None, error


def _has_running_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_in_thread(coroutine: Coroutine[Any, Any, Any]) -> Any:
    thread = _LoopThread(coroutine)
    try:
        thread.start()
        thread.has_ended.wait()  # an interrupted join takes the thread to have ended (Python 3.11)
    except BaseException:  # the user has interrupted the notebook
        thread.cancel()
        thread.has_ended.wait(CANCEL_TIMEOUT_S)
        raise
    if thread.error is not None:
        raise thread.error
    return thread.value


class _LoopThread(threading.Thread):
    """Runs a coroutine, with the context variables of the thread that has made it.

    Attributes:
        value, error: the result, or what was raised instead.
        has_ended: set once there is one of them.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        super().__init__(daemon=True)
        self.value: Any = None
        self.error: BaseException | None = None
        self.has_ended = threading.Event()
        self._coroutine = coroutine
        self._context = contextvars.copy_context()
        self._is_cancelled = False
        self._cancel_task: Callable[[], Any] | None = None

    def run(self) -> None:
        import asyncio

        try:
            self.value = self._context.run(asyncio.run, self._run_until_cancelled())
        except BaseException as error:
            self.error = error
        finally:
            self.has_ended.set()

    async def _run_until_cancelled(self) -> Any:
        import asyncio

        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._cancel_task = functools.partial(loop.call_soon_threadsafe, task.cancel)
        if self._is_cancelled:  # before there was a task
            task.cancel()
        return await self._coroutine

    def cancel(self) -> None:
        """Cancel the coroutine, from another thread."""
        self._is_cancelled = True
        if self._cancel_task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._cancel_task()
