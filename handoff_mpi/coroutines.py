"""Runs the coroutine that an ``async def`` function returns to its end, so that such a function is called as any other.

asyncio is imported with the first coroutine: few DAGs have one, and every rank and child imports this module.
"""

from __future__ import annotations

import contextvars
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
    import asyncio

    cancel: Callable[[], Any] = lambda: None  # noqa: E731
    outcome: Any = None
    error: BaseException | None = None

    async def run_until_cancelled() -> Any:
        nonlocal cancel
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        cancel = lambda: loop.call_soon_threadsafe(task.cancel)  # noqa: E731
        return await coroutine

    def run() -> None:
        nonlocal outcome, error
        try:
            outcome = asyncio.run(run_until_cancelled())
        except BaseException as raised:
            error = raised

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:  # the user has interrupted the notebook
        _cancel(cancel)
        thread.join(CANCEL_TIMEOUT_S)
        raise
    if error is not None:
        raise error
    return outcome


def _cancel(cancel: Callable[[], Any]) -> None:
    try:
        cancel()
    except RuntimeError:
        pass  # the loop has ended by itself
