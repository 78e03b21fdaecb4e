"""Runs the coroutine that an ``async def`` function returns to its end, so that such a function is called as any other.

asyncio is imported with the first coroutine: few DAGs have one, and every rank and child imports this module.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from types import CoroutineType, GeneratorType

#: A coroutine is of one of these types; with ``types.coroutine`` it is a generator.
COROUTINE_TYPES = frozenset({CoroutineType, GeneratorType})


def is_coroutine(value: object) -> bool:
    """Whether ``value`` must be awaited, and has not been: the result of an ``async def`` function, for one."""
    if type(value) is CoroutineType:
        return True
    return type(value) is GeneratorType and bool(value.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def result_of(value: object) -> object:
    """Return what a call has returned; of a coroutine, which is run to its end, its result."""
    return run_coroutine(value) if is_coroutine(value) else value  # type: ignore[arg-type]


def run_coroutine(coroutine: Awaitable[object]) -> object:
    """Run ``coroutine`` in its own event loop and return its result; its exceptions propagate.

    Raises:
        KeyboardInterrupt: the user has interrupted this process; the coroutine was cancelled.
        RuntimeError: a loop runs in this thread already, and :func:`running_loop_hidden` does not hide it.
    """
    import asyncio

    value, error = asyncio.run(_settle(coroutine))
    if error is not None:
        raise error
    return value


async def _settle(coroutine: Awaitable[object]) -> tuple[object, Exception | None]:
    """Return the result, or the error: raised through asyncio, it would get asyncio's frames into its traceback."""
    try:
        return await coroutine, None
    except Exception as error:
        return None, error


@contextmanager
def running_loop_hidden() -> Iterator[None]:
    """Let code within ``with`` use asyncio as in a thread without a loop, where one runs already, as in a notebook.

    The hidden loop cannot run meanwhile in any case, because this thread is busy. asyncio documents these functions for
    other event loops ("Extending asyncio"); since Python 3.14 the current task belongs to the thread.
    """
    asyncio = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    if asyncio is None or loop is None:
        yield
        return
    swap_task = getattr(asyncio.tasks, "_swap_current_task", lambda loop, task: None)  # since Python 3.12
    task = swap_task(loop, None)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
        swap_task(loop, task)
