"""All that can be tried with the real devices of this machine, and a report of it.

    python -m tests.gpu [words for pytest]

It runs the tests marked ``gpu`` and the example, and measures how fast an array of 1 GB goes from the device of a rank
to that of another one. Its status is 0 if all of that went well, 1 if something failed, and 2 if there is no device.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from handoff_mpi.resources.detection import detect
from tests.conftest import HANDOFF, ROOT, run_process
from tests.gpu.real import measure_transfer, why_none

FAILED, NO_DEVICE = 1, 2
_TRANSFER_NBYTES = 10**9


def main(words: list[str]) -> int:
    """Try all of it, and print the report; return the exit status."""
    why = why_none()
    if why:
        print(f"{why}: nothing was tried")
        return NO_DEVICE
    for device in detect(0).devices:
        print(f"device {device.index}: {device.name} with {device.memory_mb} MB, {device.uuid}")
    status = int(pytest.main([str(Path(__file__).parent), "-v", "-m", "gpu", *words]))
    print(f"tests marked gpu: {'passed' if not status else f'pytest ended with {status}'}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        ended = run_process(
            [*HANDOFF, "run", "-n", "3", ROOT / "examples" / "gpu.py", "--", "--device", "gpu"], directory, 300
        )
        print(f"examples/gpu.py: {'agrees with numpy' if not ended.rc else ended.err}\n{ended.out}")
        print(measure_transfer(directory, _TRANSFER_NBYTES))
    return FAILED if status or ended.rc else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
