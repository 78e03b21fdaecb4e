"""Judges measurements of the run-dir and of the hosts. Pure: it measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from handoff_mpi.doctor.filesystem import FolderFacts, FolderView
from handoff_mpi.doctor.formatting import duration, name_list, plain, rank_list, space
from handoff_mpi.doctor.measuring import RankFacts
from handoff_mpi.doctor.report import ERROR, OK, WARNING, Finding
from handoff_mpi.formatting import counted

#: From here on a measurement is worth a note.
SLOW_WRITE_S = 0.02
#: Read from a local disk, these imports take some tenths of a second, on a busy core too; what takes seconds waits
#: for a file system.
SLOW_IMPORT_S = 2.0
LITTLE_SPACE_NBYTES = 10**9
NO_SPACE_NBYTES = 50 * 10**6
LITTLE_SCRATCH_NBYTES = 500 * 10**6
LITTLE_SHARED_NBYTES = 60 * 10**6
FEW_FILES = 1000
FILES_PER_RANK = 256

_OTHER_DIR = "name another directory with --run-dir"

# -- the run-dir ---------------------------------------------------------------------------------------


def judge_folder(facts: FolderFacts) -> Finding:
    """Whether runs can use it at all."""
    if facts.trouble:
        return Finding(ERROR, "run-dir", f"{facts.path} cannot be used: {facts.trouble}", _OTHER_DIR)
    if facts.refusal:
        return Finding(ERROR, "run-dir", f"runs will refuse it: {facts.refusal}", f"change that, or {_OTHER_DIR}")
    return Finding(OK, "run-dir", f"{facts.path} can be written to, and by nobody else")


def judge_sharing(views: Mapping[int, FolderView], hosts: Mapping[int, str]) -> Finding:
    """Whether all ranks see what rank 0 writes there, and may write too."""
    blind = [rank for rank, view in views.items() if not view.is_seen]
    if blind:
        what = f"{rank_list(blind)} (on {name_list(hosts[rank] for rank in blind)}) cannot see the run-dir of rank 0"
        remedy = "name one on a shared file system with --run-dir; else all kept values travel to rank 0"
        return Finding(WARNING, "sharing", what, remedy)
    barred = {rank: view.trouble for rank, view in views.items() if view.trouble}
    if barred:
        what = f"{rank_list(barred)} cannot write to the run-dir: {next(iter(barred.values()))}"
        return Finding(ERROR, "sharing", what, f"let them, or {_OTHER_DIR}")
    return Finding(OK, "sharing", f"the run-dir is seen on {name_list(hosts.values())}, and written to from there")


def judge_writes(facts: FolderFacts) -> Finding:
    """How long it takes to keep something for good."""
    what = f"to create, fsync and rename a file takes {duration(facts.write_s)}"
    if facts.write_s <= SLOW_WRITE_S:
        return Finding(OK, "writes", what)
    return Finding(WARNING, "writes", what, "each kept value costs that: put the run-dir on a faster file system")


def judge_locks(facts: FolderFacts, views: Mapping[int, FolderView], hosts: Mapping[int, str]) -> Finding:
    """Whether a lock keeps others out, on all hosts."""
    remedy = f"never start two runs on one run-dir there, or {_OTHER_DIR}"
    if facts.lock_trouble:
        return Finding(WARNING, "locks", f"flock does not work on the run-dir: {facts.lock_trouble}", remedy)
    let_in = [rank for rank, view in views.items() if view.is_seen and view.is_locked_out is False]
    if let_in:
        what = f"a lock of rank 0 on the run-dir keeps nobody out on {name_list(hosts[rank] for rank in let_in)}"
        return Finding(WARNING, "locks", what, remedy)
    untried = [rank for rank, view in views.items() if view.is_seen and not view.trouble and view.is_locked_out is None]
    if untried:
        return Finding(WARNING, "locks", f"flock does not work on {name_list(hosts[rank] for rank in untried)}", remedy)
    kept_out = {hosts[rank] for rank, view in views.items() if view.is_locked_out}
    return Finding(OK, "locks", "flock works on the run-dir" + (", between hosts too" if len(kept_out) > 1 else ""))


def judge_space(facts: FolderFacts) -> Finding:
    """Whether there is room for kept values."""
    files = "" if facts.free_files is None else f" and {facts.free_files:,} more files"
    what = f"the run-dir has room for {space(facts.free_nbytes)}{files}"
    has_no_files = facts.free_files is not None and facts.free_files < FEW_FILES
    if facts.free_nbytes < NO_SPACE_NBYTES or facts.free_files == 0:
        return Finding(ERROR, "space", what, f"make room, or {_OTHER_DIR}")
    if facts.free_nbytes < LITTLE_SPACE_NBYTES or has_no_files:
        return Finding(WARNING, "space", what, f"large kept values go there: make room, or {_OTHER_DIR}")
    return Finding(OK, "space", what)


# -- the hosts -----------------------------------------------------------------------------------------


def judge_gpus(facts: Sequence[RankFacts]) -> Finding:
    """Which CUDA devices there are, and who sees them."""
    trouble = list(dict.fromkeys(note for each in facts for note in each.device_notes))
    if trouble:
        return Finding(WARNING, "GPUs", trouble[0], "see to the driver there; without, functions get no GPU")
    seeing = [each for each in facts if each.devices]
    if not seeing:
        return Finding(OK, "GPUs", f"none; cupy is {'' if _all_have_cupy(facts) else 'not '}installed")
    shown = "; ".join(_devices_of_host(host, ranks) for host, ranks in _by_host(seeing).items())
    if not _all_have_cupy(seeing):
        lacking = rank_list(each.rank for each in seeing if not each.has_cupy)
        what = f"{shown}; no cupy on {lacking}, so functions must use devices by other means"
        return Finding(WARNING, "GPUs", what, "pip install 'handoff_mpi[gpu]' there if functions use cupy")
    alone = [host for host, ranks in _by_host(seeing).items() if _all_see_one(ranks)]
    if alone:
        what = f"{shown}; all ranks of {name_list(alone)} see the same single one"
        remedy = (
            "if there are more, let every rank see them (unset CUDA_VISIBLE_DEVICES; Slurm: --gpus-per-node rather "
            "than --gpus-per-task): each call is given its own"
        )
        return Finding(WARNING, "GPUs", what, remedy)
    aware = {None: "", True: "; MPI takes device memory", False: "; MPI takes no device memory (none is needed)"}
    return Finding(OK, "GPUs", shown + aware[seeing[0].is_cuda_aware])


def judge_cores(facts: Sequence[RankFacts]) -> Finding:
    """How tightly the launcher bound the ranks."""
    tight = [each for each in facts if each.bound_cores < each.host_cores]
    hosts = name_list(f"{host} has {plain(ranks[0].host_cores)}" for host, ranks in _by_host(facts).items())
    if tight:
        most = max(each.bound_cores for each in tight)
        what = f"{rank_list(each.rank for each in tight)} are bound to {counted(most, 'core')} each at most; {hosts}"
        remedy = "nothing: a call gets the cores it claims anyway; --bind-to none (srun: --cpu-bind=none) loosens ranks"
        return Finding(WARNING, "cores", what, remedy)
    return Finding(OK, "cores", f"{hosts}; no rank is bound more tightly" if len(facts) > 1 else hosts)


def judge_crowding(facts: Sequence[RankFacts]) -> Finding:
    """Whether hosts have a core for each rank that computes; rank 0 schedules, unless it is alone on its host."""
    computing = {
        host: [each for each in ranks if each.rank or len(ranks) == 1] for host, ranks in _by_host(facts).items()
    }
    crowded = [
        f"{len(ranks):,} ranks that compute share {plain(ranks[0].host_cores)} cores on {host}"
        for host, ranks in computing.items()
        if len(ranks) > max(1.0, ranks[0].host_cores)
    ]
    if crowded:
        remedy = "start fewer ranks: beside rank 0, which schedules, one for each core is the most that helps"
        return Finding(WARNING, "crowding", "; ".join(crowded[:8]), remedy)
    return Finding(OK, "crowding", "there is a core for every rank that computes")


def judge_open_files(facts: Sequence[RankFacts], size: int) -> Finding:
    """Whether a process may open enough files; MPI may need one for each rank."""
    least = min(each.open_files for each in facts)
    what = "a process may have " + (f"{least} files open" if least < 2**62 else "any number of files open")
    needed = size + FILES_PER_RANK
    if least >= needed:
        return Finding(OK, "open files", what)
    few = name_list(each.host for each in facts if each.open_files == least)
    return Finding(WARNING, "open files", f"{what} on {few}", f"ulimit -n {needed} before the launch (or more)")


def judge_scratch(facts: Sequence[RankFacts]) -> Finding:
    """Space for temporary files, and for the memory that MPI shares between the ranks of a host."""
    least: dict[str, tuple[int, str]] = {}
    for each in facts:
        for folder, free in each.free_nbytes.items():
            least[folder] = min(least.get(folder, (free, each.host)), (free, each.host))
    what = ", ".join(f"{space(free)} free in {folder} on {host}" for folder, (free, host) in least.items())
    for folder, (free, host) in least.items():
        if folder == "/dev/shm" and free < LITTLE_SHARED_NBYTES:
            remedy = f"make /dev/shm larger on {host} (a container: --shm-size): MPI shares memory through it"
            return Finding(WARNING, "scratch", what, remedy)
        if folder != "/dev/shm" and free < LITTLE_SCRATCH_NBYTES:
            remedy = f"make room in {folder} on {host}, or set TMPDIR: MPI and functions write there"
            return Finding(WARNING, "scratch", what, remedy)
    return Finding(OK, "scratch", what)


def judge_imports(facts: Sequence[RankFacts], is_in_slurm: bool) -> Finding:
    """How long the imports take that every rank does, all ranks at once, and where they are read from."""
    failed = {each.rank: value for each in facts for value in each.imports.seconds.values() if isinstance(value, str)}
    if failed:
        what = f"imports fail on {rank_list(failed)}: {next(iter(failed.values()))}"
        return Finding(ERROR, "imports", what, "install handoff_mpi with all it needs, where these ranks find it")
    least, most = (pick(facts, key=lambda each: each.imports.total_s) for pick in (min, max))
    took = duration(most.imports.total_s)
    if len(facts) > 1:
        took = f"{duration(least.imports.total_s)} (least) to {took} (most: rank {most.rank} on {most.host})"
    parts = ", ".join(f"{name} {duration(float(value))}" for name, value in most.imports.seconds.items())
    kinds = {each.imports.file_system: each.imports.is_remote for each in facts}
    where = name_list(f"{kind or 'unknown'}{' (network)' if is_remote else ''}" for kind, is_remote in kinds.items())
    what = f"imports in a fresh process take {took}: {parts}; {most.imports.path} is on {where}"
    if most.imports.total_s <= SLOW_IMPORT_S:
        return Finding(OK, "imports", what)
    return Finding(WARNING, "imports", what, _remedy_of_imports(facts, is_in_slurm))


def _remedy_of_imports(facts: Sequence[RankFacts], is_in_slurm: bool) -> str:
    remedies = []
    if any(each.imports.is_remote for each in facts):
        how = "Slurm: sbcast an archive of it, and unpack that by srun" if is_in_slurm else "an archive of it, unpacked"
        remedies.append(
            f"stage the environment to node-local storage before the launch ({how}), or keep it in one image file "
            "(squashfs, a container)"
        )
    if not all(each.imports.is_compiled for each in facts):
        remedies.append(
            "have Python keep what it compiles (python -m compileall where it is installed; unset "
            "PYTHONDONTWRITEBYTECODE)"
        )
    return "; ".join(remedies) or "see what else keeps these hosts busy; python -X importtime tells which modules wait"


def _by_host(facts: Iterable[RankFacts]) -> dict[str, list[RankFacts]]:
    hosts: dict[str, list[RankFacts]] = {}
    for each in facts:
        hosts.setdefault(each.host, []).append(each)
    return hosts


def _all_have_cupy(facts: Sequence[RankFacts]) -> bool:
    return all(each.has_cupy for each in facts)


def _all_see_one(facts: Sequence[RankFacts]) -> bool:
    seen = [{device.uuid for device in each.devices} for each in facts]
    return len(seen) > 1 and len(seen[0]) == 1 and all(each == seen[0] for each in seen)


def _devices_of_host(host: str, facts: Sequence[RankFacts]) -> str:
    devices = {device.uuid: device for each in facts for device in each.devices}
    seen_by: dict[str, list[int]] = {}
    for each in facts:
        for device in each.devices:
            seen_by.setdefault(device.uuid, []).append(each.rank)
    shown = [
        f"{device.name or 'a device'} with {space(device.memory_mb * 1e6)} (seen by {rank_list(seen_by[uuid])})"
        for uuid, device in devices.items()
    ]
    return f"{host} has {', '.join(shown)}"
