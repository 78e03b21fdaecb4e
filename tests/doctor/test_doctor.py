"""``doctor``: what it makes of made-up measurements, how it measures, and real visits."""

from __future__ import annotations

import inspect
import json
import os
import signal
import stat
import sys
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from handoff_mpi import cli
from handoff_mpi.comm import MemoryNetwork, RankFailed
from handoff_mpi.doctor import fault_tolerance, filesystem, importing, report, runner
from handoff_mpi.doctor import host_checks as of_host
from handoff_mpi.doctor import job_checks as of_job
from handoff_mpi.doctor import mpi_checks as of_mpi
from handoff_mpi.doctor.fault_tolerance import Trial, child_environment, try_deaths
from handoff_mpi.doctor.filesystem import FolderFacts, FolderView
from handoff_mpi.doctor.importing import MODULES, Imports, file_system_of, measure_imports
from handoff_mpi.doctor.job_checks import JobFacts
from handoff_mpi.doctor.measuring import RankFacts
from handoff_mpi.doctor.network import Leader, Ping, Ring, serve
from handoff_mpi.doctor.report import ERROR, OK, WARNING, Finding, Report
from handoff_mpi.errors import UsageError
from handoff_mpi.launch import launcher_process, own_ranks
from handoff_mpi.launch.launcher_process import started
from handoff_mpi.resources import Device
from handoff_mpi.resources.slurm_grants import Mismatch
from tests.conftest import DEVELOPMENT, missing, run_process

# -- what measurements mean ----------------------------------------------------------------------------


def rank(number=0, **known):
    known = {"host": "h1", "versions": {"Python": "3.12.1", "mpi4py": "4.1"}, "host_cores": 8.0, **known}
    known = {"bound_cores": 8, "imports": imports(0.1), **known}
    return RankFacts(rank=number, **{"free_nbytes": {"/tmp": 10**10, "/dev/shm": 10**10}, **known})


def imports(numpy_s, file_system="ext4", is_compiled=True):
    return Imports({"mpi4py.MPI": 0.2, "numpy": numpy_s}, "/env/lib", file_system, is_compiled)


def gpu(*uuids):
    return tuple(Device(index, each, 80_000, "H100") for index, each in enumerate(uuids))


GPU = {"has_cupy": True, "devices": gpu("a")}
RUN_DIR = FolderFacts("/runs", write_s=1e-3, free_nbytes=10**12, free_files=10**6)
LOST = Trial("mpirun -n 3", is_started=True, size=3, code=137)
TOLD = Trial("mpirun --with-ft ulfm -n 3", True, "Open MPI", "SERIALIZED", 3, True, 0.01, True, False, 1)
HOSTS = {0: "h1", 1: "h1", 2: "h2"}


def run_dir(**changes):
    known = {name: getattr(RUN_DIR, name) for name in FolderFacts.__slots__}
    return FolderFacts(**{**known, **changes})


FEWER = Mismatch("tasks", "2 ranks use a job of 8 tasks", "run -n 8")
NO_GPU = Mismatch("GPUs", "the ranks see no GPU", "nvidia-smi -L")

CASES = [
    # the same programs everywhere
    (of_mpi.judge_versions, [[rank(0), rank(1)]], OK, "Python 3.12.1, mpi4py 4.1 on all 2 ranks"),
    (of_mpi.judge_versions, [[rank(0)]], OK, "Python 3.12.1, mpi4py 4.1"),
    (
        of_mpi.judge_versions,
        [[rank(0), rank(1), rank(2, versions={"Python": "3.11.2", "mpi4py": "4.1"})]],
        ERROR,
        "ranks differ: Python 3.12.1 on ranks 0-1, 3.11.2 on rank 2",
    ),
    (
        of_mpi.judge_versions,
        [[rank(0), rank(1, versions={"Python": "3.12.1"})]],
        ERROR,
        "mpi4py 4.1 on rank 0, none on",
    ),
    (of_mpi.judge_versions, [[rank(0, versions={"mpi4py": "none"})]], ERROR, "mpi4py is not installed"),
    # threads
    (of_mpi.judge_threads, ["Open MPI", {0: "SERIALIZED", 1: "SERIALIZED"}], OK, "thread level SERIALIZED"),
    (
        of_mpi.judge_threads,
        ["Open MPI", {0: "SERIALIZED", 1: "SINGLE"}],
        WARNING,
        "a rank receives no messages while a long call",
    ),
    (of_mpi.judge_threads, ["Open MPI", {0: "MULTIPLE"}], WARNING, "doubles every round trip"),
    # ranks
    (of_mpi.judge_ranks, [4, 4, {"h1": [0, 1], "h2": [2, 3]}], OK, "4 ranks on 2 hosts: h1 (ranks 0-1), h2"),
    (of_mpi.judge_ranks, [1, 1, {"h1": [0]}], WARNING, "1 rank on 1 host"),
    (of_mpi.judge_ranks, [4, 1, {}], ERROR, "started 4 ranks, but this MPI sees 1"),
    (of_mpi.judge_answers, [3, {}, {}], OK, "all ranks answered"),
    (of_mpi.judge_answers, [3, {2: "it has ended"}, {}], ERROR, "rank 2: it has ended"),
    (of_mpi.judge_answers, [3, {}, {1: "ValueError: no"}], ERROR, "rank 1: ValueError: no"),
    (of_mpi.judge_answers, [99, dict.fromkeys(range(20), "late"), {}], ERROR, "and 12 more"),
    # the network
    (of_mpi.judge_ring, [Ring(5, seconds=0.002)], OK, "all 5 ranks in 2 ms"),
    (of_mpi.judge_ring, [Ring(5, [(1, 2)])], ERROR, "nothing gets from rank 1 to rank 2, though rank 0 reaches both"),
    (of_mpi.judge_ring, [Ring(5, [], [3, 4])], ERROR, "ranks 3-4 did not take it"),
    (of_mpi.judge_ping, [{1: Ping(2e-6, 0), 2: Ping(9e-6, 0)}, HOSTS], OK, "2 µs (least), 5.5 µs (median), 9 µs"),
    (of_mpi.judge_ping, [{1: Ping(2e-6, 0), 2: Ping(0.05, 0)}, HOSTS], WARNING, "rank 0 with rank 2 on h2"),
    (of_mpi.judge_bandwidth, [64 << 20, 0.01, 2, True], OK, "64 MiB take 10 ms from rank 0 to rank 2 (another host)"),
    (of_mpi.judge_bandwidth, [64 << 20, 1.0, 2, True], WARNING, "67 MB/s"),
    (of_mpi.judge_bandwidth, [64 << 20, 0.2, 1, False], WARNING, "336 MB/s"),
    (of_mpi.judge_bandwidth, [64 << 20, None, 1, False], ERROR, "64 MiB did not arrive from rank 0 to rank 1"),
    (of_mpi.judge_clocks, [{"h2": -0.002, "h3": 0.001}], OK, "within 2 ms"),
    (of_mpi.judge_clocks, [{"h2": 0.1, "h3": -7.0}], WARNING, "h3 by -7.0 s"),
    # a rank's death
    (of_mpi.judge_deaths, [[TOLD, LOST], True], OK, "survives a rank's death (with --with-ft ulfm)"),
    (of_mpi.judge_deaths, [[TOLD, LOST], None], OK, "a rank's death costs that rank's running calls"),
    (of_mpi.judge_deaths, [[TOLD, LOST], False], WARNING, "is not told to here"),
    (of_mpi.judge_deaths, [[LOST], False], WARNING, "this MPI ends the job when a rank dies"),
    (of_mpi.judge_deaths, [[Trial("m", is_started=True, goes_on=True)], None], WARNING, "but MPI did not report it"),
    (of_mpi.judge_deaths, [[Trial("m", is_started=True, size=3)], None], WARNING, "neither continued nor ended"),
    (of_mpi.judge_deaths, [[Trial("m", library="x", size=1, code=0)], None], ERROR, "but this MPI sees 1"),
    (of_mpi.judge_deaths, [[Trial("m", code=1, said="a\nno libmpi\n---\n")], None], ERROR, "it said: no libmpi"),
    (of_mpi.judge_deaths, [[Trial("m")], None], ERROR, "had not got all ranks together after 30 s"),
    (of_mpi.judge_no_launcher, ["no mpirun"], WARNING, "no mpirun"),
    # the run-dir
    (of_host.judge_folder, [RUN_DIR], OK, "/runs can be written to"),
    (of_host.judge_folder, [run_dir(trouble="Read-only file system")], ERROR, "Read-only file system"),
    (
        of_host.judge_folder,
        [run_dir(refusal="/runs belongs to eve")],
        ERROR,
        "runs will refuse it: /runs belongs to eve",
    ),
    (of_host.judge_sharing, [dict.fromkeys(HOSTS, FolderView(True)), HOSTS], OK, "seen on h1, h2"),
    (of_host.judge_sharing, [{0: FolderView(True), 2: FolderView(False)}, HOSTS], WARNING, "rank 2 (on h2) cannot see"),
    (of_host.judge_sharing, [{0: FolderView(True), 2: FolderView(True, "quota")}, HOSTS], ERROR, "rank 2 cannot write"),
    (of_host.judge_writes, [RUN_DIR], OK, "takes 1 ms"),
    (of_host.judge_writes, [run_dir(write_s=0.3)], WARNING, "takes 300 ms"),
    (
        of_host.judge_locks,
        [RUN_DIR, {0: FolderView(True, "", True), 2: FolderView(True, "", True)}, HOSTS],
        OK,
        "between",
    ),
    (of_host.judge_locks, [RUN_DIR, {}, {}], OK, "flock works on the run-dir"),
    (of_host.judge_locks, [run_dir(lock_trouble="No locks available"), {}, {}], WARNING, "No locks available"),
    (of_host.judge_locks, [RUN_DIR, {2: FolderView(True, "", False)}, HOSTS], WARNING, "keeps nobody out on h2"),
    (of_host.judge_locks, [RUN_DIR, {2: FolderView(True, "", None)}, HOSTS], WARNING, "does not work on h2"),
    (of_host.judge_space, [RUN_DIR], OK, "1 TB and 1,000,000 more files"),
    (of_host.judge_space, [run_dir(free_files=None)], OK, "room for 1 TB"),
    (of_host.judge_space, [run_dir(free_nbytes=5 * 10**8)], WARNING, "500 MB"),
    (of_host.judge_space, [run_dir(free_files=10)], WARNING, "10 more files"),
    (of_host.judge_space, [run_dir(free_nbytes=10**6)], ERROR, "1 MB"),
    (of_host.judge_space, [run_dir(free_files=0)], ERROR, "0 more files"),
    # GPUs
    (of_host.judge_gpus, [[rank(0), rank(1)]], OK, "none; cupy is not installed"),
    (of_host.judge_gpus, [[rank(0, **GPU), rank(1, has_cupy=True)]], OK, "h1 has H100 with 80 GB (seen by rank 0)"),
    (
        of_host.judge_gpus,
        [[rank(n, has_cupy=True, devices=gpu("a", "b"), is_cuda_aware=True) for n in (0, 1)]],
        OK,
        "h1 has H100 with 80 GB (seen by ranks 0-1), H100 with 80 GB (seen by ranks 0-1); MPI takes device memory",
    ),
    (of_host.judge_gpus, [[rank(0, **GPU), rank(1, **GPU)]], WARNING, "all ranks of h1 see the same single one"),
    (of_host.judge_gpus, [[rank(0, devices=gpu("a"))]], WARNING, "no cupy on rank 0"),
    (of_host.judge_gpus, [[rank(0, device_notes=("a CUDA device is there, but",))]], WARNING, "a CUDA device is there"),
    # hosts
    (of_host.judge_cores, [[rank(0), rank(1, host="h2")]], OK, "h1 has 8, h2 has 8; no rank is bound more tightly"),
    (
        of_host.judge_cores,
        [[rank(0, bound_cores=1), rank(1, bound_cores=1)]],
        WARNING,
        "ranks 0-1 are bound to 1 core each",
    ),
    (of_host.judge_crowding, [[rank(0), rank(1)]], OK, "a core for every rank that computes"),
    (of_host.judge_crowding, [[rank(n, host_cores=2.0) for n in range(3)]], OK, "a core for every rank that computes"),
    (
        of_host.judge_crowding,
        [[rank(0, host="h0"), *[rank(n, host_cores=2.0) for n in range(1, 4)]]],
        WARNING,
        "3 ranks that compute share 2 cores on h1",
    ),
    (
        of_host.judge_crowding,
        [[rank(n, host_cores=2.0) for n in range(4)]],
        WARNING,
        "3 ranks that compute share 2 cores on h1",
    ),
    (of_host.judge_open_files, [[rank(0)], 4], OK, "1024 files"),
    (of_host.judge_open_files, [[rank(0, open_files=2**63 - 1)], 4], OK, "any number of files"),
    (of_host.judge_open_files, [[rank(0), rank(1, host="h2", open_files=256)], 4], WARNING, "256 files open on h2"),
    (of_host.judge_open_files, [[rank(0)], 2000], WARNING, "1024 files open on h1"),
    (of_host.judge_scratch, [[rank(0)]], OK, "10 GB free in /tmp on h1"),
    (
        of_host.judge_scratch,
        [[rank(0), rank(1, host="h2", free_nbytes={"/tmp": 10**6})]],
        WARNING,
        "1 MB free in /tmp on h2",
    ),
    (of_host.judge_scratch, [[rank(0, free_nbytes={"/dev/shm": 10**6})]], WARNING, "1 MB free in /dev/shm"),
    (
        of_host.judge_imports,
        [[rank(0)], False],
        OK,
        "take 300 ms: mpi4py.MPI 200 ms, numpy 100 ms; /env/lib is on ext4",
    ),
    (
        of_host.judge_imports,
        [[rank(0), rank(1, imports=imports(9.0, "nfs4"), host="h2")], False],
        WARNING,
        "(least) to 9.2 s (most: rank 1 on h2): mpi4py.MPI 200 ms, numpy 9.0 s; /env/lib is on ext4, nfs4 (",
    ),
    (of_host.judge_imports, [[rank(0), rank(1, imports=imports("ImportError"))], False], ERROR, "rank 1: ImportError"),
    # the Slurm job
    (of_job.judge_job, [JobFacts("7", 8, 2, 0, 7500.0)], OK, "job 7 of 8 tasks on 2 nodes; it ends in 2 h 5 min"),
    (of_job.judge_job, [JobFacts("7", restarts=2)], OK, "job 7; Slurm has restarted it 2 times; its end is not known"),
    (of_job.judge_job, [JobFacts("7", 1, 1, 1, 30.0)], WARNING, "restarted it once; it ends in 30 s"),
    (of_job.judge_grants, [[]], OK, "tasks and nodes that Slurm granted"),
    (of_job.judge_grants, [[FEWER, NO_GPU]], WARNING, "2 ranks use a job of 8 tasks; the ranks see no GPU"),
    (of_job.judge_steps, [["n1", "n2"], [], []], OK, "a step reaches each of 2 nodes"),
    (of_job.judge_steps, [["n1", "n2"], [], ["n2"]], WARNING, "Slurm makes no step on n2"),
    (of_job.judge_steps, [["n1", "n2"], ["n2"], []], ERROR, "no step answers from n2"),
]


@pytest.mark.parametrize(
    "judge, measured, level, what", CASES, ids=[f"{case[0].__name__[6:]}-{case[2]}-{case[3][:30]}" for case in CASES]
)
def test_what_measurements_mean(judge, measured, level, what):
    finding = judge(*measured)
    assert finding.level == level, finding
    assert what in finding.what
    assert bool(finding.remedy) == (level != OK)
    assert "\n" not in finding.what + finding.remedy


@pytest.mark.parametrize(
    "slow, is_in_slurm, words",
    [
        (imports(9.0, "lustre"), False, ["node-local storage", "squashfs"]),
        (imports(9.0, "lustre"), True, ["node-local storage", "sbcast"]),
        (imports(9.0, is_compiled=False), True, ["compileall", "PYTHONDONTWRITEBYTECODE"]),
        (imports(9.0, "nfs", is_compiled=False), True, ["sbcast", "compileall"]),
        (imports(9.0), True, ["importtime"]),
    ],
)
def test_the_remedy_for_slow_imports_goes_by_what_is_slow(slow, is_in_slurm, words):
    remedy = of_host.judge_imports([rank(0), rank(1, imports=slow)], is_in_slurm).remedy
    known = {"node-local storage", "squashfs", "sbcast", "compileall", "PYTHONDONTWRITEBYTECODE", "importtime"}
    assert {word for word in known if word in remedy} >= {*words}
    assert ("sbcast" in remedy) == ("sbcast" in words)
    assert ("compileall" in remedy) == ("compileall" in words)


def test_every_finding_has_a_happy_and_an_unhappy_case():
    members = [each for room in (of_mpi, of_host, of_job) for each in inspect.getmembers(room)]
    judges = {each for name, each in members if name.startswith("judge_")}
    assert {case[0] for case in CASES if case[2] != OK} == judges
    assert {case[0] for case in CASES if case[2] == OK} == judges - {of_mpi.judge_no_launcher}


# -- how findings are printed --------------------------------------------------------------------------


def test_a_report_is_printed_line_by_line_and_as_data(capsys):
    told = [Finding(OK, "ring", "round"), Finding(ERROR, "MPI", "none", "install it")]
    plain, data = Report(), Report(as_json=True)
    for each in told:
        plain.add(each)
        data.add(each)
    assert capsys.readouterr().out == "ok      ring: round\nerror   MPI: none\n      -> install it\n"
    assert (plain.close(), data.close()) == (1, 1)
    document = json.loads(capsys.readouterr().out)
    assert document["exit_code"] == 1
    assert [Finding(**each) for each in document["findings"]] == told


def test_one_doctor_understands_the_lines_of_another(capsys):
    lines = Report(as_lines=True)
    finding = Finding(WARNING, "ping", "3 µs", "nothing")
    lines.add(finding)
    assert lines.close() == 0
    first, second = capsys.readouterr().out.splitlines()
    assert report.read_line(first + "\r") == finding  # Open MPI's ranks write to terminals
    assert report.read_line(second) is True
    assert report.read_line("warning: something else") is None
    assert report.read_line(first[:-5]) is None


def test_colours_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(report, "is_under_launcher", lambda: False)
    monkeypatch.setenv("TERM", "dumb")
    Report().add(Finding(ERROR, "MPI", "[none]", "install it"))
    assert "MPI: [none]" in capsys.readouterr().out


# -- messages that measure -----------------------------------------------------------------------------


def quarrel():
    raise ValueError("no")


class Ranks:
    """Ranks as threads, all but the silent ones serving."""

    HANDLERS = {"name": lambda: "me", "quarrel": quarrel}

    def __init__(self, size, silent=()):
        self.network = MemoryNetwork(size)
        self.leader = Leader(self.network.transport(0), self.HANDLERS)
        self.threads = [
            threading.Thread(target=serve, args=(self.network.transport(rank), self.HANDLERS, 5.0), daemon=True)
            for rank in range(1, size)
            if rank not in silent
        ]
        for thread in self.threads:
            thread.start()

    def close(self):
        self.leader.dismiss(5.0)
        for thread in self.threads:
            thread.join(5.0)
        assert not any(thread.is_alive() for thread in self.threads)


def test_all_ranks_answer():
    ranks = Ranks(4)
    assert ranks.leader.ask("name", timeout_s=5.0) == dict.fromkeys(range(4), "me")
    ring = ranks.leader.ring(5.0)
    assert (ring.size, ring.broken, ring.silent) == (4, [], [])
    pings = ranks.leader.ping(5.0)
    assert sorted(pings) == [1, 2, 3]
    assert all(0 < ping.round_trip_s < 1 and abs(ping.clock_s) < 1 for ping in pings.values())
    assert 0 < ranks.leader.stream(2, 1 << 16, 2, 5.0) < 5
    ranks.close()
    assert ranks.leader.silent == {}


def test_rank_0_alone():
    leader = Leader(MemoryNetwork(1).transport(0), Ranks.HANDLERS)
    assert leader.ask("name", timeout_s=1.0) == {0: "me"}
    assert leader.ring(1.0).silent == []
    assert leader.ping(1.0) == {}
    leader.dismiss(1.0)


def test_a_rank_whose_end_is_told_before_its_last_word_has_left(monkeypatch):
    """MPI may report that a process has ended before it delivers what that process said last."""
    ranks = Ranks(3)
    transport = ranks.leader._transport
    poll, gone = transport.poll, []

    def poll_early():
        arrived = poll()
        if arrived and not gone:
            gone.append(RankFailed(arrived[0].source, "its process died"))
            return [*gone, *arrived[1:]]
        return arrived

    monkeypatch.setattr(transport, "poll", poll_early)
    ranks.close()
    assert gone
    assert ranks.leader.silent == {}


def test_a_silent_rank_is_named_and_not_asked_again():
    ranks = Ranks(4, silent=[2])
    assert sorted(ranks.leader.ask("name", timeout_s=0.3)) == [0, 1, 3]
    assert "has not answered within" in ranks.leader.silent[2]
    before = time.monotonic()
    assert sorted(ranks.leader.ask("name", timeout_s=5.0)) == [0, 1, 3]
    assert time.monotonic() - before < 2
    ranks.close()


@pytest.mark.parametrize("silent", [[1], [2], [3], [2, 3], [1, 2, 3]])
def test_a_ring_names_those_who_do_not_take_the_token(silent):
    ranks = Ranks(4, silent=silent)
    ring = ranks.leader.ring(0.2)
    assert (ring.silent, ring.broken) == (silent, [])
    ranks.close()
    assert sorted(ranks.leader.silent) == silent


def test_a_ring_names_the_link_that_is_broken(monkeypatch):
    ranks = Ranks(4)
    send = type(ranks.leader._transport).send

    def lossy(self, dest, message, buffers=()):
        if (self.rank, dest) != (1, 2):
            send(self, dest, message, buffers)

    monkeypatch.setattr(type(ranks.leader._transport), "send", lossy)
    ring = ranks.leader.ring(0.3)
    assert (ring.broken, ring.silent) == ([(1, 2)], [])
    ranks.close()
    assert ranks.leader.silent == {}


@pytest.mark.long
def test_pings_and_blocks_to_a_silent_rank_end():
    ranks = Ranks(3, silent=[2])
    assert sorted(ranks.leader.ping(0.5)) == [1]
    assert "ping" in ranks.leader.silent.pop(2)
    assert ranks.leader.stream(2, 1 << 10, 2, 0.3) is None
    assert "1024 bytes have not reached it" in ranks.leader.silent[2]
    ranks.close()


def test_the_dead_are_not_waited_for():
    ranks = Ranks(3, silent=[2])
    ranks.network.kill(2)
    assert sorted(ranks.leader.ask("name", timeout_s=30.0)) == [0, 1]
    assert ranks.leader.silent == {2: "it was killed"}
    ranks.close()


def test_what_fails_on_a_rank_is_told(capsys):
    ranks = Ranks(2)
    assert ranks.leader.ask("quarrel", timeout_s=5.0) == {}
    assert ranks.leader.troubles == {0: "ValueError: no", 1: "ValueError: no"}
    assert ranks.leader.others == [1]
    ranks.close()


def test_a_rank_does_not_wait_for_ever_for_rank_0():
    network = MemoryNetwork(2)
    with pytest.raises(ConnectionError, match=r"silent for 0 s"):
        serve(network.transport(1), {}, 0.05)
    network.kill(0)
    with pytest.raises(ConnectionError, match="rank 0 was lost"):
        serve(network.transport(1), {}, 5.0)


# -- the run-dir ---------------------------------------------------------------------------------------


def test_a_run_dir_is_tried_and_left_as_it_was(tmp_path):
    wanted = tmp_path / "deep" / "runs"
    with filesystem.open_folder(str(wanted), True) as opened:
        assert of_host.judge_folder(opened.facts).level == OK
        assert opened.facts.write_s > 0 and opened.facts.free_nbytes > 0 and not opened.facts.lock_trouble
        assert filesystem.look_at_folder(str(opened.probe), opened.token, 3) == FolderView(True, "", True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_dir_that_was_there_stays(tmp_path):
    (tmp_path / "kept").touch()
    with filesystem.open_folder(str(tmp_path), True):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_a_run_dir_that_cannot_be_used(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with filesystem.open_folder(str(file), True) as opened:
        assert opened.facts.trouble
        assert opened.probe is None
    assert file.exists()


def test_what_is_made_for_the_looking_is_writable_by_nobody_else(tmp_path):
    before = os.umask(0)
    try:
        with filesystem.open_folder(str(tmp_path / "above" / "run"), True) as opened:
            made = [tmp_path / "above", tmp_path / "above" / "run", opened.probe]
            assert [stat.S_IMODE(each.stat().st_mode) for each in made] == [0o755] * 3
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_a_run_dir_that_runs_will_refuse(tmp_path):
    tmp_path.chmod(0o777)
    with filesystem.open_folder(str(tmp_path), True) as opened:
        assert "can be written to by everybody" in of_host.judge_folder(opened.facts).what
    with filesystem.open_folder(str(tmp_path), False) as opened:
        assert "could replace it" in opened.facts.refusal
    tmp_path.chmod(0o1777)
    with filesystem.open_folder(str(tmp_path), False) as opened:
        assert not opened.facts.refusal  # runs make directories of their own in it
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777


def test_a_run_dir_that_another_host_does_not_see(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "SEEN_WITHIN_S", 0.1)
    with filesystem.open_folder(str(tmp_path), True) as opened:
        assert filesystem.look_at_folder(str(opened.probe), "another's", 1) == FolderView(False)
        assert filesystem.look_at_folder(str(tmp_path / "elsewhere"), opened.token, 1) == FolderView(False)


# -- imports -------------------------------------------------------------------------------------------


def test_imports_are_measured_in_a_fresh_process():
    measured = measure_imports()
    assert measured.seconds.keys() == set(MODULES)
    assert all(seconds > 0 for seconds in measured.seconds.values())
    assert measured.total_s == sum(measured.seconds.values())
    assert Path(measured.path).is_dir() and measured.file_system


def test_an_import_that_fails_says_why(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("print('words')\nraise ImportError('no libblas\\nat all')")
    monkeypatch.syspath_prepend(tmp_path)
    seconds = measure_imports().seconds
    assert seconds["numpy"] == "ImportError: no libblas"
    assert isinstance(seconds["handoff_mpi"], float)


@pytest.mark.long
@pytest.mark.parametrize(
    "line, why",
    [
        ("import time; time.sleep(60)", "not imported within 1 s"),
        ("import os; os._exit(1)", "a fresh Python told nothing"),
    ],
)
def test_imports_that_hang_or_kill_are_given_up(tmp_path, monkeypatch, line, why):
    (tmp_path / "numpy.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(importing, "IMPORT_TIMEOUT_S", 1.0)
    assert all(told.startswith(why) for told in measure_imports().seconds.values())


def test_a_file_system_is_that_of_the_innermost_mount(monkeypatch):
    mounts = [("/", "ext4"), ("/home", "autofs"), ("/home", "nfs4"), ("/homeless", "xfs"), ("/home/a", "fuse.sshfs")]
    made = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: made)
    places = ["/home/b", "/home/a/lib", "/homeless", "/usr"]
    assert [file_system_of(place) for place in places] == ["nfs4", "fuse.sshfs", "xfs", "ext4"]
    assert [Imports(file_system=kind).is_remote for _, kind in mounts] == [False, False, True, False, True]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [])
    assert file_system_of("/usr") == ""


# -- the trial -----------------------------------------------------------------------------------------


def test_the_trial_forgets_the_launcher_and_the_batch_system(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "4")
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/mpi")
    kept = child_environment({"OMPI_ALLOW_RUN_AS_ROOT": "1", "PMI_SIZE": "4"})
    assert kept["LD_LIBRARY_PATH"] == "/opt/mpi"
    assert kept["OMPI_ALLOW_RUN_AS_ROOT"] == "1"
    assert not [name for name in kept if name.startswith(("PMI_", "SLURM_"))]


def left_of(mark):
    """Return the processes that inherited the variable ``mark``."""
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def nothing_is_left_of(mark):
    end = time.monotonic() + 5.0  # what was killed may still be going
    while left_of(mark) and time.monotonic() < end:
        time.sleep(0.05)
    return not left_of(mark)


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path)]


@pytest.mark.long
def test_a_launcher_that_hangs_is_ended_with_all_it_started(tmp_path, monkeypatch):
    mark = f"HANDOFF_TEST_{uuid.uuid4().hex}"
    monkeypatch.setenv(mark, "1")
    monkeypatch.setattr(launcher_process, "_TERMINATE_S", 0.2)
    launcher = script(tmp_path / "mpirun", "trap '' TERM; setsid sleep 77 & echo words >&2; sleep 77")
    monkeypatch.setattr(fault_tolerance, "launcher_command", lambda ranks: (launcher, {}))
    before = time.monotonic()
    (tried,) = try_deaths(0.5)
    assert time.monotonic() - before < 10
    assert (tried.code, tried.is_started, tried.said) == (None, False, "words")
    del os.environ[mark]
    assert nothing_is_left_of(mark)


def test_what_was_started_is_ended_when_the_doctor_is(tmp_path):
    mark = f"HANDOFF_TEST_{uuid.uuid4().hex}"
    before = time.monotonic()
    with pytest.raises(SystemExit), started(["sleep", "77"], {**os.environ, mark: "1"}, is_local=True):
        sys.exit(143)
    assert nothing_is_left_of(mark)
    assert time.monotonic() - before < 5


def test_a_launcher_whose_variables_cannot_be_read_yet_is_ended_too(monkeypatch):
    monkeypatch.setattr(psutil, "process_iter", list)
    with pytest.raises(SystemExit), started(["sleep", "77"], dict(os.environ), is_local=True) as process:
        sys.exit(143)
    assert process.returncode == -signal.SIGKILL


def test_both_ways_to_launch_are_tried(tmp_path, monkeypatch):
    launcher = [*script(tmp_path / "mpirun", "echo with $* >&2; exit 3"), "--with-ft", "ulfm", "-n", "3"]
    monkeypatch.setattr(fault_tolerance, "launcher_command", lambda ranks: (launcher, {}))
    with_ft, plain = try_deaths(10.0)
    assert (with_ft.is_ft, with_ft.code, with_ft.command) == (True, 3, "mpirun --with-ft ulfm -n 3")
    assert (plain.is_ft, plain.code, plain.command) == (False, 3, "mpirun -n 3")
    assert plain.said.startswith("with -n 3 ")


# -- visits in this process ----------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Call the command line in this process, as if outside a launcher, without a trial."""

    def refuse():
        raise UsageError("no mpirun anywhere")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "rank_by_launcher", lambda: 0)
    monkeypatch.setattr(runner, "is_under_launcher", lambda: False)
    monkeypatch.setattr(runner, "try_deaths", refuse)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return lambda *words: cli.main(["doctor", *map(str, words)])


def test_without_a_launcher_that_is_noted(alone, capsys):
    assert alone() == 0
    said = "warning deaths: what a rank's death does was not tried: no mpirun anywhere\n      ->"
    assert said in capsys.readouterr().out


def test_a_bad_run_dir_makes_it_exit_1(alone, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HANDOFF_RUN_DIR", str(tmp_path / "file"))
    assert alone() == 1
    assert f"error   run-dir: {tmp_path / 'file'} cannot be used" in capsys.readouterr().out


def test_bad_usage(alone, monkeypatch, capsys):
    assert alone("-n", "0") == 2
    monkeypatch.setenv("HANDOFF_CORES", "some")
    assert alone() == 2
    monkeypatch.setattr(own_ranks, "is_under_launcher", lambda: True)
    assert alone("-n", "2") == 2
    assert "leave -n out" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("ending", ["exit 5", "echo words; sleep 77"])
def test_a_launcher_that_does_not_get_through(alone, tmp_path, monkeypatch, capsys, ending):
    mark = f"HANDOFF_TEST_{uuid.uuid4().hex}"
    launcher = script(tmp_path / "mpirun", ending)
    monkeypatch.setattr(own_ranks, "launcher_command", lambda *given: (launcher, {**os.environ, mark: "1"}))
    monkeypatch.setattr(runner, "DOCTOR_TIMEOUT_S", 0.5)
    monkeypatch.setattr(runner, "_DOCTOR_FLUSH_TIMEOUT_S", 0.0)
    assert alone("-n", "2") == 1
    told = capsys.readouterr()
    assert "error   launch: " in told.out and "before all was examined" in told.out
    assert "ok      imports: " in told.out  # what can be said without MPI is said
    assert ("words" in told.err) == ("words" in ending)
    assert nothing_is_left_of(mark)


# -- real visits ---------------------------------------------------------------------------------------


@pytest.fixture
def mark():
    """A variable that everything a visit starts inherits; afterwards nothing may be left."""
    name = f"HANDOFF_TEST_{uuid.uuid4().hex}"
    yield {name: "1"}
    assert nothing_is_left_of(name)


def heads(text):
    """Return what findings are about, by level."""
    told = {OK: [], WARNING: [], ERROR: []}
    for line in text.splitlines():
        level, _, rest = line.partition(" ")
        if level in told:
            told[level].append(rest.strip().partition(":")[0])
    return told


OF_ALL = {"versions", "MPI", "run-dir", "writes", "locks", "space", "GPUs", "cores", "open files", "scratch", "imports"}
OF_RANKS = OF_ALL | {"ranks", "answers", "ring", "ping", "bandwidth", "sharing", "crowding"}


@pytest.mark.long
def test_alone(handoff, tmp_path, mark):
    ended = handoff("doctor", env={**mark, **DEVELOPMENT})
    told = heads(ended.out)
    assert (ended.rc, told[ERROR]) == (0, []), ended.out + ended.err
    assert "Warning" not in ended.err
    assert {*told[OK], *told[WARNING]} == OF_ALL | {"deaths"}, ended.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.soak
def test_launching_ranks_itself(handoff, tmp_path, mark):
    ended = handoff("doctor", "-n", "3", "--json", "--run-dir", "kept", env={**mark, **DEVELOPMENT})
    document = json.loads(ended.out)
    assert "Warning" not in ended.err
    told = {each["about"]: each for each in document["findings"]}
    assert (ended.rc, document["exit_code"]) == (0, 0), ended.out + ended.err
    assert told.keys() == OF_RANKS | {"deaths"}
    assert told["ranks"]["level"] == told["ring"]["level"] == told["answers"]["level"] == OK
    assert told["ranks"]["what"].startswith("3 ranks on 1 host")
    assert str(tmp_path / "kept") in told["run-dir"]["what"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_under_mpirun(mpirun, tmp_path, mark):
    ended = mpirun(4, "-m", "handoff_mpi", "doctor", env=mark)
    told = heads(ended.out)
    assert (ended.rc, told[ERROR]) == (0, []), ended.out + ended.err
    assert {*told[OK], *told[WARNING]} == OF_RANKS | {"deaths"}, ended.out
    assert "\x1b" not in ended.out
    assert "deaths" in told[WARNING]  # it could be on, or cannot: either way not here
    assert list(tmp_path.iterdir()) == []


def test_under_mpich(tmp_path, mark):
    mpiexec = os.environ.get("HANDOFF_TEST_MPICH")
    if not mpiexec:
        missing("MPICH in another environment, its mpiexec named by HANDOFF_TEST_MPICH,")
    python = Path(mpiexec).parent / "python"
    ended = run_process([mpiexec, "-n", "3", python, "-m", "handoff_mpi", "doctor"], tmp_path, 60, mark)
    told = heads(ended.out)
    assert (ended.rc, told[ERROR]) == (0, []), ended.out + ended.err
    assert {*told[OK], *told[WARNING]} == OF_RANKS | {"deaths"}, ended.out
    assert "this MPI ends the job when a rank dies" in ended.out


@pytest.mark.long
def test_ranks_that_do_not_find_each_other(handoff, mark):
    ended = handoff("doctor", env={"PMI_SIZE": "3", "PMI_RANK": "0", **mark})
    told = heads(ended.out)
    assert (ended.rc, told[ERROR]) == (1, ["ranks"]), ended.out + ended.err
    assert "the launcher started 3 ranks, but this MPI sees 1" in ended.out
    assert {*told[OK], *told[WARNING]} == OF_ALL | {"deaths"}  # what can be said without the others
    other = handoff("doctor", env={"PMI_SIZE": "3", "PMI_RANK": "1", **mark})
    assert (other.rc, other.out) == (0, "")  # one speaks for all


# Rank 2 goes, or stops, when the token comes. The trial is left out: it does not depend on that.
UNHAPPY = """
import os, signal, sys
from handoff_mpi import cli
from handoff_mpi.doctor import network, runner

react = network._react
runner._RING_S = 0.5
runner.try_deaths = lambda: []
runner.mpi_checks.judge_deaths = lambda *_: runner.Finding("ok", "deaths", "left out")

def unhappy(transport, handlers, envelope):
    if transport.rank == 2 and envelope.message[0] == "token":
        os.kill(os.getpid(), int(sys.argv[1]))
    react(transport, handlers, envelope)

network._react = unhappy
sys.exit(cli.main(["doctor"]))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "number, ft",
    [(signal.SIGKILL, True), (signal.SIGSTOP, True), (signal.SIGSTOP, False)],
    ids=["killed, ft", "stopped, ft", "stopped"],
)
def test_a_rank_that_is_lost_on_the_way(mpirun, tmp_path, mark, number, ft):
    (tmp_path / "unhappy.py").write_text(UNHAPPY)
    ended = mpirun(3, "unhappy.py", int(number), ft=ft, env=mark, timeout_s=60)
    if number == signal.SIGKILL and ended.rc not in (0, 1):
        return  # an MPI without fault tolerance: its launcher ended all at once
    assert ended.rc != 0, ended.out + ended.err
    assert "error   answers: rank 2: " in ended.out
    assert {"ping", "imports", "deaths"} <= {*heads(ended.out)[OK], *heads(ended.out)[WARNING]}, ended.out


@pytest.mark.long
def test_the_trial_itself_ends_where_ranks_are_alone(tmp_path):
    code = "from handoff_mpi.doctor.fault_tolerance import main; main('told')"
    ended = run_process([sys.executable, "-c", code], tmp_path, 30)
    known = {}
    for line in (tmp_path / "told").read_text().splitlines():
        known.update(json.loads(line))
    assert (ended.rc, known["size"]) == (0, 1), ended.err
    assert known["thread_level"] == "SERIALIZED"
