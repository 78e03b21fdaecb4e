"""How much memory is in use, of which limit: cgroups of both versions, the machine, a declared part."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from handoff_mpi.resources.memory import Gauge

MB = 10**6
V1 = "sys/fs/cgroup/memory"
V2 = "sys/fs/cgroup"
MACHINE = {"proc/meminfo": "MemTotal: 1000000 kB\nMemFree: 1 kB\nMemAvailable:  250000 kB\n"}


def root_of(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def told(gauge: Gauge, **options) -> list[str]:
    return [str(usage) for usage in gauge.measure(**options)]


def test_of_the_machine_counts_what_is_not_available(tmp_path):
    gauge = Gauge(root=root_of(tmp_path, MACHINE))
    assert told(gauge) == ["768 of 1024 MB of the machine's memory are in use"]
    assert gauge.measure()[0].left == 256_000_000


def test_of_a_v2_cgroup_and_its_ancestors_counts_all_but_file_cache(tmp_path):
    files = {
        "proc/self/cgroup": "0::/job/step\n",
        f"{V2}/job/step/memory.current": "90000000\n",
        f"{V2}/job/step/memory.max": "max\n",
        f"{V2}/job/step/memory.high": "100000000\n",
        f"{V2}/job/step/memory.stat": "anon 1\ninactive_file 5000000\nactive_file 1000000\nshmem 7\n",
        f"{V2}/job/memory.current": "150000000\n",
        f"{V2}/job/memory.max": "200000000\n",
        f"{V2}/job/memory.high": "max\n",
        f"{V2}/memory.stat": "anon 1\n",
    }
    words = "of the control group's memory are in use"
    assert told(Gauge(root=root_of(tmp_path, files))) == [f"84 of 100 MB {words}", f"150 of 200 MB {words}"]


def test_of_a_v1_cgroup_counts_what_is_below_it_too(tmp_path):
    files = {
        "proc/self/cgroup": "4:memory:/job\n0::/\n",
        f"{V1}/job/memory.usage_in_bytes": "90000000\n",
        f"{V1}/job/memory.limit_in_bytes": "100000000\n",
        f"{V1}/job/memory.stat": "inactive_file 1\nactive_file 1\ntotal_inactive_file 20000000\ntotal_active_file 0\n",
        f"{V1}/memory.usage_in_bytes": "95000000\n",
        f"{V1}/memory.limit_in_bytes": "9223372036854771712\n",
    }
    gauge = Gauge(root=root_of(tmp_path, files))
    assert told(gauge) == ["70 of 100 MB of the control group's memory are in use"]
    root_of(tmp_path, {f"{V1}/job/memory.limit_in_bytes": "80000000\n"})
    assert told(gauge) == ["70 of 80 MB of the control group's memory are in use"], "limits change"


@pytest.mark.parametrize(
    ("name", "text"), [("memory.current", ""), ("memory.max", "0"), ("memory.max", "lots"), ("memory.current", "-1")]
)
def test_what_is_missing_or_damaged_is_passed_over(tmp_path, name, text):
    files = {"memory.current": "90000000", "memory.max": "100000000", name: text}
    gauge = Gauge(root=root_of(tmp_path, {f"{V2}/{each}": content for each, content in files.items()}))
    assert gauge.measure() == []


def test_a_declared_limit_is_parted_among_the_ranks_of_the_host(tmp_path):
    files = {**MACHINE, "proc/self/statm": "9000 5000 1000 1 0 1 0\n", "proc/77/statm": "9000 3000 2000 1 0 1 0\n"}
    root = root_of(tmp_path, files)
    page = os.sysconf("SC_PAGE_SIZE")
    part = Gauge(800 * MB, 4, root).measure([77, 78], shared_nbytes=1000)[-1]
    assert (part.used, part.limit, part.what) == (5000 * page + 1000, 200 * MB, "the rank's part")


def test_what_was_detected_is_no_limit_of_its_own(tmp_path):
    """A rank may use more than its part while others use less, unless nobody but the ranks themselves minds it."""
    root = root_of(tmp_path, {**MACHINE, "proc/self/statm": "9000 5000 1000 1 0 1 0\n"})
    for declared in (1024 * MB, 1023 * MB, 2000 * MB, 0):
        assert len(Gauge(declared, 4, root).measure()) == 1
    assert len(Gauge(1000 * MB, 4, root).measure()) == 2


def test_what_this_process_takes_is_measured():
    gauge = Gauge(1, 1)
    before = gauge.measure()[-1].used
    held = np.ones(40 * MB // 8)
    assert 30 * MB < gauge.measure()[-1].used - before < 60 * MB
    del held
