"""The cost of the checksum of value files: writing and reading them with it, against the same without.

    python -m tests.benchmarks.value_files [--repeats 5] [--json FILE]

Both write to a file system in memory where there is one, so that no disk hides the cost; a disk only makes the share
smaller. What is read is touched whole, as a function would.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from handoff_mpi.results import DirectoryStore
from handoff_mpi.serialization import decode, encode
from tests.benchmarks.harness import Answer, Setting, arguments, in_turns

WITHOUT = "without a checksum"
SIZES = {"64 KiB": 1 << 16, "1 MiB": 1 << 20, "64 MiB": 1 << 26, "512 MiB": 1 << 29}
_MOST_NBYTES = 1 << 29


def ask(setting: Setting) -> Answer:
    sizes = {name: nbytes for name, nbytes in SIZES.items() if not (setting.quick and nbytes > 1 << 26)}
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="handoff-bench-", dir=memory if memory.is_dir() else None) as place:
        store = DirectoryStore(Path(place, "values"))
        contenders = {
            WITHOUT: lambda: unchecked(lambda: speeds(store, sizes)),
            "with it": lambda: speeds(store, sizes),
        }
        figures = in_turns(contenders, setting.repeats)
    return Answer("value files", WITHOUT, figures, "MiB/s", setting.ranks)


def speeds(store: DirectoryStore, sizes: dict[str, int]) -> dict[str, float]:
    """Return how fast values of each size are written, and read."""
    found = {}
    for name, nbytes in sizes.items():
        value = np.ones(nbytes, np.uint8)
        count = max(4, min(200, _MOST_NBYTES // nbytes // 8))
        written = timed(lambda value=value: store.put(("run", 1), encode(value)), count)
        read = timed(lambda: int(decode(store.get(("run", 1))).view("u8").sum()), count)
        found[f"written, {name}"] = nbytes / 2**20 / written
        found[f"read and summed, {name}"] = nbytes / 2**20 / read
    return found


def timed(does: Callable[[], object], count: int) -> float:
    """Return how long one call takes, in seconds: the least of several, since others use the machine too."""
    does()
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        does()
        took.append(time.perf_counter() - begun)
    return min(took)


def unchecked(does: Callable[[], Any]) -> Any:
    """Call ``does`` while nothing is hashed."""
    import xxhash

    class Nothing:
        def update(self, chunk: Any) -> None:
            pass

        def digest(self) -> bytes:
            return bytes(16)

    before = xxhash.xxh3_128
    xxhash.xxh3_128 = Nothing  # type: ignore[misc,assignment]
    try:
        return does()
    finally:
        xxhash.xxh3_128 = before  # type: ignore[misc]


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
