"""Judges what Slurm granted the job, and whether its steps reach all nodes. Pure: it measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from handoff_mpi.doctor.formatting import name_list
from handoff_mpi.doctor.report import ERROR, OK, WARNING, Finding
from handoff_mpi.formatting import counted, duration_text
from handoff_mpi.resources.slurm_grants import Mismatch

#: A job that ends this soon has no time for a run.
LITTLE_TIME_S = 120.0


@dataclass(slots=True)
class JobFacts:
    """The Slurm job of the ranks.

    Attributes:
        id: Slurm's number of it.
        tasks, nodes: how many it was granted, 0 if that is unknown.
        restarts: how often Slurm has started it again.
        left_s: seconds until its end, None if that is unknown.
    """

    id: str
    tasks: int = 0
    nodes: int = 0
    restarts: int = 0
    left_s: float | None = None


def judge_job(job: JobFacts) -> Finding:
    """Which job it is, and how long it lasts."""
    grants = [counted(number, noun) for number, noun in ((job.tasks, "task"), (job.nodes, "node")) if number]
    parts = [f"job {job.id} of {' on '.join(grants)}" if grants else f"job {job.id}"]
    if job.restarts:
        parts.append(f"Slurm has restarted it {'once' if job.restarts == 1 else f'{job.restarts} times'}")
    if job.left_s is None:
        parts.append("its end is not known here")
    else:
        parts.append(f"it ends in {duration_text(max(0.0, job.left_s))}")
    what = "; ".join(parts)
    if job.left_s is not None and job.left_s < LITTLE_TIME_S:
        return Finding(WARNING, "Slurm job", what, "submit with more time (sbatch -t); a run that was cut off resumes")
    return Finding(OK, "Slurm job", what)


def judge_grants(mismatches: Sequence[Mismatch]) -> Finding:
    """Whether the ranks use and see what Slurm granted."""
    if not mismatches:
        what = "the ranks use the tasks and nodes that Slurm granted, and see the memory and GPUs"
        return Finding(OK, "grants", what)
    remedies = dict.fromkeys(each.remedy for each in mismatches)
    return Finding(WARNING, "grants", "; ".join(each.what for each in mismatches), "; ".join(remedies))


def judge_steps(nodes: Sequence[str], silent: Sequence[str], refused: Sequence[str]) -> Finding:
    """Whether Slurm makes a step on each node: runs ask by steps whether a silent host lives.

    Args:
        silent: nodes from which no answer came.
        refused: nodes on which Slurm made no step.
    """
    if silent:
        what = f"no step answers from {name_list(silent)}"
        remedy = f"try `srun --overlap --mem=0 -w {silent[0]} hostname`; a run leaves such nodes out"
        return Finding(ERROR, "steps", what, remedy)
    if refused:
        what = f"Slurm makes no step on {name_list(refused)}, so a run cannot ask whether a silent rank's host lives"
        return Finding(WARNING, "steps", what, f"see what `srun --overlap --mem=0 -w {refused[0]} hostname` says")
    return Finding(OK, "steps", f"a step reaches each of {counted(len(nodes), 'node')}")
