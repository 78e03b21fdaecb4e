"""All tests on a Slurm as sites run it, those too that are too long for other commands.

    python -m tests.slurm.sites [words for pytest]

Nodes that are killed or cut off, the batch node among them, with each kind of memory and GPUs; time limits that end a
job again and again; shells in jobs. It needs root, Slurm and iproute2, and takes some ten minutes on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import find_missing


def main(words: list[str]) -> int:
    """Run the tests, and list what each has taken; return pytest's status, 2 if something is missing."""
    lacking = find_missing()
    if lacking is not None:
        print(f"this needs {lacking} and there is none here", file=sys.stderr)
        return 2
    here = str(Path(__file__).parent)
    return int(pytest.main([here, "-v", "--durations=0", "-m", "long or soak or not long", *words]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
