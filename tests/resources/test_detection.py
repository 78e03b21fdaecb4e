"""Detection on imagined machines: every test writes the few files its machine consists of."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_mpi.errors import UsageError
from handoff_mpi.resources import detection, slurm
from handoff_mpi.resources.capability import Capability
from handoff_mpi.resources.detection import detect, usable_cpus

CORE = 10_000
MB = 10_000
MIB = 2**20

ONLINE = "sys/devices/system/cpu/online"
SELF = "proc/self/cgroup"
MOUNTS = "proc/self/mountinfo"
MEMINFO = "proc/meminfo"
V2 = "sys/fs/cgroup"
BIG = {ONLINE: "0-63\n", MEMINFO: "MemTotal:       1000000000 kB\nMemFree:  1 kB\n"}

Machine = Callable[..., Path]


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Write a machine of 64 CPUs and 10^9 KiB, changed and completed by the given files."""

    def build(files: Mapping[str, str] | None = None) -> Path:
        return write(tmp_path, {**BIG, **(files or {})})

    return build


def cores(root: Path, **environ: str) -> int:
    return detect(0, environ, root).host_amounts["cpu"]


def memory(root: Path, **environ: str) -> int:
    return detect(0, environ, root).host_amounts["memory"]


def in_a_fresh_interpreter(code: str, root: Path) -> subprocess.CompletedProcess[str]:
    package = Path(detection.__file__).parents[2]
    return subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, cwd=package)


# ---- cores: the machine and its cpusets --------------------------------------------------------------


def test_cores_are_the_cpus_online(machine: Machine) -> None:
    root = machine({ONLINE: "0-3,8,10-11\n"})
    assert cores(root) == 7 * CORE
    assert usable_cpus({}, root) == {0, 1, 2, 3, 8, 10, 11}


def test_a_binding_of_this_process_makes_the_host_no_smaller(machine: Machine) -> None:
    root = machine()
    code = (
        "import os, sys, pathlib; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from handoff_mpi.resources.detection import detect, usable_cpus;"
        "root = pathlib.Path(sys.argv[1]);"
        "print(detect(0, {}, root).host_amounts['cpu'], len(usable_cpus({}, root)))"
    )
    done = in_a_fresh_interpreter(code, root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(64 * CORE), "64"]


@pytest.mark.parametrize("text", ["", "many", "0-", "0-1,3-2", "-1", "0-99999999999", "0,,1", "0x3", "\x00\xff"])
def test_a_damaged_list_of_cpus_is_passed_over(machine: Machine, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert cores(machine({ONLINE: text})) == 5 * CORE


def test_a_machine_that_tells_nothing_has_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert cores(tmp_path) == CORE
    assert usable_cpus({}, tmp_path) == {0}


def test_v2_cpuset_of_the_own_cgroup(machine: Machine) -> None:
    root = machine(
        {
            SELF: "0::/slurm/job_7/step_0\n",
            f"{V2}/slurm/job_7/step_0/cpuset.cpus.effective": "4-7\n",
            f"{V2}/slurm/cpuset.cpus.effective": "0-31\n",
            f"{V2}/other/cpuset.cpus.effective": "0\n",
        }
    )
    assert usable_cpus({}, root) == {4, 5, 6, 7}
    assert cores(root) == 4 * CORE


def test_v2_cpuset_is_inherited_from_the_nearest_ancestor_that_has_one(machine: Machine) -> None:
    root = machine(
        {
            SELF: "0::/a/b/c\n",
            f"{V2}/a/b/c/cpuset.cpus.effective": "\n",
            f"{V2}/a/cpuset.cpus.effective": "2-3\n",
            f"{V2}/cpuset.cpus.effective": "0-63\n",
        }
    )
    assert usable_cpus({}, root) == {2, 3}


def test_cpus_of_a_cpuset_that_are_offline_do_not_count(machine: Machine) -> None:
    root = machine({ONLINE: "0-3", SELF: "0::/a", f"{V2}/a/cpuset.cpus.effective": "2-9"})
    assert usable_cpus({}, root) == {2, 3}


def test_a_cpuset_that_would_leave_nothing_is_passed_over(machine: Machine) -> None:
    root = machine({ONLINE: "0-3", SELF: "0::/a", f"{V2}/a/cpuset.cpus.effective": "70-71"})
    assert usable_cpus({}, root) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", ["cpuset.effective_cpus", "cpuset.cpus"])
def test_v1_cpuset(machine: Machine, name: str) -> None:
    root = machine({SELF: "5:cpuset:/job/7\n0::/\n", f"{V2}/cpuset/job/7/{name}": "8-9,12\n"})
    assert usable_cpus({}, root) == {8, 9, 12}


def test_v1_effective_cpus_come_before_configured_ones(machine: Machine) -> None:
    root = machine(
        {
            SELF: "5:cpuset:/job",
            f"{V2}/cpuset/job/cpuset.cpus": "0-9",
            f"{V2}/cpuset/job/cpuset.effective_cpus": "0-3",
        }
    )
    assert cores(root) == 4 * CORE


# ---- where cgroups are mounted -----------------------------------------------------------------------


def mount(point: str, top: str = "/", kind: str = "cgroup2", options: str = "rw") -> str:
    return f"31 23 0:26 {top} {point} rw,nosuid shared:4 - {kind} {kind} {options}\n"


def test_cgroups_are_found_where_they_are_mounted(machine: Machine) -> None:
    root = machine(
        {
            MOUNTS: "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mount("/cg\\040two"),
            SELF: "0::/a",
            "cg two/a/cpuset.cpus.effective": "0-1",
            f"{V2}/a/cpuset.cpus.effective": "0-7",
        }
    )
    assert cores(root) == 2 * CORE


def test_v1_controllers_that_share_a_mount(machine: Machine) -> None:
    root = machine(
        {
            MOUNTS: mount("/both", kind="cgroup", options="rw,cpu,cpuacct"),
            SELF: "4:cpu,cpuacct:/a",
            "both/a/cpu.cfs_quota_us": "300000",
            "both/a/cpu.cfs_period_us": "100000",
        }
    )
    assert cores(root) == 3 * CORE


def test_a_container_that_sees_the_path_outside(machine: Machine) -> None:
    # Without a cgroup namespace, the path is the host's, and the mount shows the container's own part.
    root = machine(
        {
            MOUNTS: mount(f"/{V2}/memory", top="/docker/abc", kind="cgroup", options="rw,memory"),
            SELF: "9:memory:/docker/abc/inner",
            f"{V2}/memory/inner/memory.limit_in_bytes": "7000000",
            f"{V2}/memory/memory.limit_in_bytes": "9000000",
        }
    )
    assert memory(root) == 7 * MB


@pytest.mark.parametrize("path", ["/elsewhere1/kid", "/../others/kid", "/docker/abcdef"])
def test_a_path_that_is_not_mounted_means_the_mount_itself(machine: Machine, path: str) -> None:
    root = machine({MOUNTS: mount("/cg", top="/docker/abc"), SELF: f"0::{path}", "cg/memory.max": "5000000"})
    # what is left of the path behind as many letters as the mount's cgroup has is no cgroup of ours
    write(root, {f"cg/{path[len('/docker/abc') :].strip('/')}/memory.max": "1000000"})
    assert memory(root) == 5 * MB


def test_another_cgroup_mounted_beside_the_own_is_not_ours(machine: Machine) -> None:
    root = machine(
        {
            MOUNTS: mount("/theirs", top="/theirs") + mount("/ours", top="/ours"),
            SELF: "0::/ours",
            "theirs/memory.max": "1000000",
            "ours/memory.max": "2000000",
        }
    )
    assert memory(root) == 2 * MB


def test_v2_beside_v1(machine: Machine) -> None:
    root = machine({SELF: "0::/a\n", f"{V2}/unified/a/cpuset.cpus.effective": "0-4"})
    assert cores(root) == 5 * CORE


def test_without_proc_the_mount_is_the_own_cgroup(machine: Machine) -> None:
    assert cores(machine({f"{V2}/cpu.max": "200000 100000"})) == 2 * CORE


@pytest.mark.parametrize("text", ["31 23 0:26 /\n", " - cgroup2\n", "- - -\n", "31 23 0:26 / /x rw -\n"])
def test_damaged_mounts_are_passed_over(machine: Machine, text: str) -> None:
    root = machine({MOUNTS: text, SELF: "0::/a", f"{V2}/a/cpu.max": "200000 100000"})
    assert cores(root) == 2 * CORE


def test_a_path_in_no_encoding_spoils_nothing_else(machine: Machine) -> None:
    root = machine({SELF: "0::/a", "cg/a/cpu.max": "200000 100000"})
    (root / MOUNTS).write_bytes(b"22 1 8:1 / /mnt/caf\xe9 rw - ext4 x rw\n" + mount("/cg").encode())
    assert cores(root) == 2 * CORE


def test_a_path_that_no_file_can_have_is_passed_over(machine: Machine) -> None:
    root = machine({SELF: "0::/a\x00b", f"{V2}/cpu.max": "200000 100000"})
    assert cores(root) == 2 * CORE


# ---- cores: quotas -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("400000 100000\n", 4 * CORE),
        ("250000 100000\n", 25_000),
        ("50000 100000\n", 5_000),
        ("33333 100000\n", 3_333),
        ("1000 1000000\n", 10),
        ("1 1000000\n", 1),
        ("9900000 100000\n", 64 * CORE),
        ("max 100000\n", 64 * CORE),
        ("max\n", 64 * CORE),
        ("400000\n", 64 * CORE),
        ("0 100000\n", 64 * CORE),
        ("400000 0\n", 64 * CORE),
        ("-5 100000\n", 64 * CORE),
        ("much more\n", 64 * CORE),
        ("", 64 * CORE),
    ],
)
def test_v2_quota(machine: Machine, text: str, amount: int) -> None:
    root = machine({SELF: "0::/a", f"{V2}/a/cpu.max": text})
    assert cores(root) == amount
    assert len(usable_cpus({}, root)) == 64


@pytest.mark.parametrize("tight", ["a/b/c", "a/b", "a", "."])
def test_v2_quota_of_every_ancestor_binds(machine: Machine, tight: str) -> None:
    quotas = dict.fromkeys((f"{V2}/{where}/cpu.max" for where in ("a/b/c", "a/b", "a", ".")), "800000 100000")
    root = machine({SELF: "0::/a/b/c", **quotas, f"{V2}/{tight}/cpu.max": "150000 100000"})
    assert cores(root) == 15_000


@pytest.mark.parametrize(
    ("quota", "period", "amount"),
    [("150000\n", "100000\n", 15_000), ("-1\n", "100000\n", 64 * CORE), ("150000\n", "", 64 * CORE)],
)
def test_v1_quota(machine: Machine, quota: str, period: str, amount: int) -> None:
    root = machine(
        {
            SELF: "3:cpu,cpuacct:/a/b\n1:name=systemd:/x\n",
            f"{V2}/cpu/a/cpu.cfs_quota_us": quota,
            f"{V2}/cpu/a/cpu.cfs_period_us": period,
            f"{V2}/cpu/a/b/cpu.cfs_quota_us": "-1",
            f"{V2}/cpu/a/b/cpu.cfs_period_us": "100000",
        }
    )
    assert cores(root) == amount


def test_the_least_of_cpuset_quota_and_grant_counts(machine: Machine) -> None:
    files = {SELF: "0::/a", f"{V2}/a/cpuset.cpus.effective": "0-7", f"{V2}/a/cpu.max": "650000 100000"}
    root = machine(files)
    assert cores(root) == 65_000
    assert cores(root, SLURM_CPUS_ON_NODE="6") == 6 * CORE
    assert cores(root, SLURM_CPUS_ON_NODE="32") == 65_000
    assert cores(machine({**files, ONLINE: "0-1"})) == 2 * CORE


# ---- cores: Slurm's grant ----------------------------------------------------------------------------


def test_the_jobs_grant_comes_before_the_steps(machine: Machine) -> None:
    assert cores(machine(), SLURM_JOB_CPUS_PER_NODE="16", SLURM_CPUS_ON_NODE="1") == 16 * CORE
    assert cores(machine(), SLURM_JOB_CPUS_PER_NODE="16(x3)", SLURM_CPUS_ON_NODE="1") == 16 * CORE


MIXED = {"SLURM_JOB_CPUS_PER_NODE": "4(x2),3", "SLURM_JOB_NODELIST": "node[1-3]", "SLURM_CPUS_ON_NODE": "7"}


@pytest.mark.parametrize(
    ("known", "amount"),
    [
        ({"SLURMD_NODENAME": "node1"}, 4),
        ({"SLURMD_NODENAME": "node2"}, 4),
        ({"SLURMD_NODENAME": "node3"}, 3),
        ({"HANDOFF_HOST": "node3"}, 3),
        ({"SLURM_NODEID": "2"}, 3),
        ({"SLURM_NODEID": "0"}, 4),
        # the step runs on one host of the three: its host 0 is the job's host 2
        ({"SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "node3"}, 3),
        # nothing tells which host this is
        ({}, 7),
        ({"SLURM_NODEID": "3"}, 7),
        ({"SLURM_NODEID": "x"}, 7),
        ({"SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "node[3"}, 7),
        ({"SLURMD_NODENAME": "node4"}, 7),
        ({"SLURM_JOB_NODELIST": "node[1-", "SLURM_NODEID": "2"}, 3),
        ({"SLURM_JOB_NODELIST": "node[1-9]", "SLURMD_NODENAME": "node9"}, 7),
        ({"SLURM_JOB_NODELIST": ""}, 7),
    ],
)
def test_a_mixed_grant_is_read_at_this_hosts_position(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, known: dict[str, str], amount: int
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "login")
    assert cores(machine(), **{**MIXED, **known}) == amount * CORE


@pytest.mark.parametrize(
    ("name", "node_list"),
    [
        ("node3", "node[1-3]"),
        ("node3.cluster.example", "node[1-3]"),
        ("node3.cluster.example", "node[1-3].cluster.example"),
    ],
)
def test_the_own_name_comes_before_an_environment_of_another_host(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str, node_list: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    others = {"SLURM_JOB_NODELIST": node_list, "SLURMD_NODENAME": "node1", "SLURM_NODEID": "0"}
    assert cores(machine(), **{**MIXED, **others}) == 3 * CORE


@pytest.mark.parametrize("text", ["", "0", "x", "4(x", "4(2)", "4,,3", "-4", "4(x2);3", "0(x2)", "4,0", "1e3"])
def test_a_damaged_grant_is_passed_over(machine: Machine, text: str) -> None:
    known = {"SLURM_NODEID": "0", "SLURM_JOB_CPUS_PER_NODE": text}
    assert cores(machine(), **known) == 64 * CORE
    assert cores(machine(), **known, SLURM_CPUS_ON_NODE="5") == 5 * CORE
    assert cores(machine(), SLURM_CPUS_ON_NODE=text) == 64 * CORE


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("a,b-1", ["a", "b-1"]),
        ("n[1-3,07]", ["n1", "n2", "n3", "n07"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("x,n[2,1],y", ["x", "n2", "n1", "y"]),
        ("r[1-2]n[1-2].site", ["r1n1.site", "r1n2.site", "r2n1.site", "r2n2.site"]),
        ("", []),
        ("n[", []),
        ("n[]", []),
        ("n]1[", []),
        ("n[3-1]", []),
        ("a,,b", []),
        ("n[a-b]", []),
        ("n[1-999999999]", []),
        ("n[1-9999][1-9999]", []),
    ],
)
def test_host_lists(text: str, names: list[str]) -> None:
    assert slurm.parse_host_list(text) == names


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 5)), min_size=1, max_size=6), st.data())
def test_a_position_in_a_grant_is_the_position_in_the_list_written_out(
    runs: list[tuple[int, int]], data: st.DataObject
) -> None:
    written_out = [cpus for cpus, hosts in runs for _ in range(hosts)]
    position = data.draw(st.integers(0, len(written_out) - 1))
    text = ",".join(f"{cpus}(x{hosts})" if hosts > 1 else str(cpus) for cpus, hosts in runs)
    environ = {"SLURM_JOB_CPUS_PER_NODE": text, "SLURM_NODEID": str(position)}
    assert slurm.granted_cpus(environ, "here") == written_out[position]


# ---- the ids of the usable CPUs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "cpus"),
    [
        # the tasks' masks make up the whole grant
        ({"SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_CPU_BIND_LIST": "0x30,0xC0"}, {4, 5, 6, 7}),
        # they do not: the step is smaller than the job
        ({"SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_CPU_BIND_LIST": "0x30"}, set(range(64))),
        ({"SLURM_CPU_BIND_TYPE": "none", "SLURM_CPU_BIND_LIST": "0xF0"}, set(range(64))),
        ({"SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_CPU_BIND_LIST": "0xF0,what"}, set(range(64))),
        ({"SLURM_CPU_BIND_TYPE": "mask_cpu:"}, set(range(64))),
        # the grant is the whole machine
        (
            {
                "SLURM_CPU_BIND_TYPE": "mask_cpu:",
                "SLURM_CPU_BIND_LIST": "0x" + "f" * 16,
                "SLURM_JOB_CPUS_PER_NODE": "64",
            },
            set(range(64)),
        ),
        ({}, set(range(64))),
    ],
)
def test_where_slurm_grants_less_than_the_cpuset_its_binding_may_tell_the_ids(
    machine: Machine, environ: dict[str, str], cpus: set[int]
) -> None:
    assert usable_cpus({"SLURM_JOB_CPUS_PER_NODE": "4", **environ}, machine()) == cpus


def test_a_cpuset_as_small_as_the_grant_needs_no_binding(machine: Machine) -> None:
    root = machine({SELF: "0::/a", f"{V2}/a/cpuset.cpus.effective": "8-11"})
    environ = {
        "SLURM_CPUS_ON_NODE": "4",
        "SLURM_CPU_BIND_TYPE": "mask_cpu:",
        "SLURM_CPU_BIND_LIST": "0x100",
    }
    assert usable_cpus(environ, root) == {8, 9, 10, 11}


# ---- memory ------------------------------------------------------------------------------------------


def test_memory_of_the_machine_in_mb_of_a_million_bytes(machine: Machine) -> None:
    assert memory(machine()) == 1_024_000 * MB
    # 1000 KiB are 1.024 MB, exactly
    assert memory(machine({MEMINFO: "MemTotal:  1000 kB\n"})) == 10_240


@pytest.mark.parametrize("text", ["", "MemTotal: lots kB", "MemFree: 3 kB", "MemTotal: 0 kB", "\x00"])
def test_a_damaged_meminfo_is_passed_over(machine: Machine, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 500, "SC_PAGE_SIZE": 4_000}.__getitem__)
    assert memory(machine({MEMINFO: text})) == 2 * MB


def test_memory_that_nothing_tells_is_left_out_with_a_note(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr("os.sysconf", unknown)
    notes: list[str] = []
    amounts = detect(0, {}, machine({MEMINFO: ""}), notes).host_amounts
    assert amounts == {"cpu": 64 * CORE}
    assert len(notes) == 1 and "HANDOFF_MEMORY" in notes[0]


@pytest.mark.parametrize("tight", ["a/b/c", "a/b", "a", "."])
def test_v2_memory_limit_of_every_ancestor_binds(machine: Machine, tight: str) -> None:
    limits = {f"{V2}/{where}/memory.max": "8000000000" for where in ("a/b/c", "a", ".")}
    limits[f"{V2}/a/b/memory.max"] = "max"
    root = machine({SELF: "0::/a/b/c", **limits, f"{V2}/{tight}/memory.max": "3000000000\n"})
    assert memory(root) == 3_000 * MB


@pytest.mark.parametrize("tight", ["a/b", "a", "."])
def test_v1_memory_limit_of_every_ancestor_binds(machine: Machine, tight: str) -> None:
    unlimited = {f"{V2}/memory/{where}/memory.limit_in_bytes": "9223372036854771712" for where in ("a/b", "a", ".")}
    root = machine({SELF: "4:memory:/a/b", **unlimited})
    assert memory(root) == 1_024_000 * MB
    write(root, {f"{V2}/memory/{tight}/memory.limit_in_bytes": "3000000000\n"})
    assert memory(root) == 3_000 * MB


def test_unlimited_in_v1_is_no_amount(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: -1)
    files = {MEMINFO: "", SELF: "4:memory:/", f"{V2}/memory/memory.limit_in_bytes": "9223372036854771712"}
    assert "memory" not in detect(0, {}, machine(files)).host_amounts


@pytest.mark.parametrize("text", ["", "max", "0", "-1", "none", "1.5"])
def test_a_damaged_memory_limit_is_passed_over(machine: Machine, text: str) -> None:
    assert memory(machine({SELF: "0::/a", f"{V2}/a/memory.max": text})) == 1_024_000 * MB


def test_slurms_memory_is_in_mib(machine: Machine) -> None:
    assert memory(machine(), SLURM_MEM_PER_NODE="1000") == 1000 * MIB // 100
    assert memory(machine(), SLURM_MEM_PER_CPU="10", SLURM_JOB_CPUS_PER_NODE="8") == 80 * MIB // 100
    assert memory(machine(), SLURM_MEM_PER_CPU="10", SLURM_CPUS_ON_NODE="3") == 30 * MIB // 100


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_MEM_PER_NODE": "0"},
        {"SLURM_MEM_PER_NODE": "4G"},
        {"SLURM_MEM_PER_NODE": "99999999999"},
        {"SLURM_MEM_PER_CPU": "10"},
        {"SLURM_MEM_PER_CPU": "x", "SLURM_CPUS_ON_NODE": "2"},
        {"SLURM_MEM_PER_CPU": "0", "SLURM_CPUS_ON_NODE": "2"},
    ],
)
def test_slurms_memory_that_limits_nothing(machine: Machine, environ: dict[str, str]) -> None:
    assert memory(machine(), **environ) == 1_024_000 * MB


def test_the_least_of_machine_cgroup_and_slurm_counts(machine: Machine) -> None:
    root = machine({SELF: "0::/a", f"{V2}/a/memory.max": "4000000000"})
    assert memory(root, SLURM_MEM_PER_NODE="100000") == 4_000 * MB
    assert memory(root, SLURM_MEM_PER_NODE="1000") == 1000 * MIB // 100
    write(root, {MEMINFO: "MemTotal: 1000000 kB"})
    assert memory(root, SLURM_MEM_PER_NODE="1000") == 1_024 * MB


# ---- what users declare ------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "amount"), [("8", 8 * CORE), ("0.5", 5_000), (" 100 ", 100 * CORE)])
def test_declared_cores_override_all(machine: Machine, text: str, amount: int) -> None:
    root = machine({SELF: "0::/", f"{V2}/cpu.max": "100000 100000"})
    assert cores(root, HANDOFF_CORES=text, SLURM_CPUS_ON_NODE="2") == amount


@pytest.mark.parametrize(("text", "amount"), [("16000", 16_000 * MB), ("2GB", 2_000 * MB), ("1 GiB", 2**30 // 100 + 1)])
def test_declared_memory_overrides_all(machine: Machine, text: str, amount: int) -> None:
    assert memory(machine(), HANDOFF_MEMORY=text, SLURM_MEM_PER_NODE="1") == amount


@pytest.mark.parametrize("variable", ["HANDOFF_CORES", "HANDOFF_MEMORY", "HANDOFF_GPUS", "HANDOFF_HOST"])
def test_an_empty_declaration_is_none(machine: Machine, variable: str) -> None:
    assert detect(0, {variable: " "}, machine()) == detect(0, {}, machine())


NONSENSE = {
    "HANDOFF_CORES": ["many", "0", "-1", "4 GB", "nan", "1e-9", "1e99", "1e999999"],
    "HANDOFF_MEMORY": ["lots", "0", "0GB", "-2GB", "2 parsecs", "1e99", "1e999999TB"],
    "HANDOFF_GPUS": ["two", "-1", "1.5", "0,x", "1025", "9" * 30],
}
REMEDIES = {"HANDOFF_CORES": "8 or 0.5", "HANDOFF_MEMORY": "16GB", "HANDOFF_GPUS": "from 0 to 1024"}


@pytest.mark.parametrize(
    ("variable", "value"), [(variable, value) for variable, values in NONSENSE.items() for value in values]
)
def test_nonsense_declared_is_refused(machine: Machine, variable: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        detect(0, {variable: value}, machine())
    assert f"{variable}={value!r}" in str(caught.value)
    assert REMEDIES[variable] in str(caught.value)


# ---- the rest ----------------------------------------------------------------------------------------


def test_host_names(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "n07.cluster")
    assert detect(0, {}, machine()).host == "n07.cluster"
    assert detect(0, {"HANDOFF_HOST": " left "}, machine()).host == "left"


def test_rank_process_and_version(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 4711)
    found = detect(5, {}, machine())
    assert (found.rank, found.pid, found.version) == (5, 4711, metadata.version("handoff_mpi"))


def test_the_environment_of_the_process_is_the_default(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDOFF_CORES", "3")
    assert detect(0, root=machine()).host_amounts["cpu"] == 3 * CORE
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "2")
    monkeypatch.setenv("SLURM_CPU_BIND_TYPE", "mask_cpu:")
    monkeypatch.setenv("SLURM_CPU_BIND_LIST", "0x3")
    assert usable_cpus(root=machine()) == {0, 1}


def test_this_very_machine() -> None:
    found = detect(0, {"HANDOFF_GPUS": "0"})
    assert isinstance(found, Capability)
    assert found.host_amounts["cpu"] > 0
    assert found.host_amounts["memory"] > MB
    assert 0 < found.host_amounts["cpu"] <= len(usable_cpus({})) * CORE


def test_files_that_cannot_be_read_are_passed_over(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    root = machine({"dev/nvidia0": ""})
    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert cores(root, HANDOFF_GPUS="0") == 3 * CORE


FILES = [
    ONLINE, MEMINFO, SELF, MOUNTS, f"{V2}/cpu.max", f"{V2}/memory.max", f"{V2}/cpuset.cpus.effective",
    f"{V2}/cpu/cpu.cfs_quota_us", f"{V2}/cpu/cpu.cfs_period_us", f"{V2}/cpuset/cpuset.cpus",
    f"{V2}/memory/memory.limit_in_bytes",
]  # fmt: skip
VARIABLES = [
    "SLURM_JOB_CPUS_PER_NODE", "SLURM_CPUS_ON_NODE", "SLURM_NODEID", "SLURM_JOB_NODELIST",
    "SLURM_STEP_NODELIST", "SLURMD_NODENAME", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU",
    "SLURM_CPU_BIND_TYPE", "SLURM_CPU_BIND_LIST", "CUDA_VISIBLE_DEVICES",
]  # fmt: skip
FRAGMENTS = st.sampled_from(
    [
        "0", "1", "4", "007", "9" * 19, "٣", "²", "-", ",", "[", "]", "(x", ")", ":", "::", "/", "..", " ",
        "\n", "max", "mask_cpu:", "0x", "f", "n", " - cgroup2 ", "cpu", "memory", "MemTotal: ", " kB", "\\057",
        "\x00",
    ]
)  # fmt: skip
DAMAGE = st.one_of(st.text(max_size=20), st.lists(FRAGMENTS, max_size=12).map("".join))


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(FILES), DAMAGE.map(str.encode) | st.binary(max_size=20)),
    st.dictionaries(st.sampled_from(VARIABLES), DAMAGE),
)
def test_no_damage_makes_detection_fail(files: dict[str, bytes], environ: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        found = detect(0, environ, root)
        assert found.host_amounts["cpu"] >= 1
        assert found.host_amounts.get("memory", 0) >= 0
        assert found.devices == ()
        assert found.host
        assert usable_cpus(environ, root)
