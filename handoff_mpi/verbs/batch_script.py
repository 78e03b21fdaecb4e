"""The batch script that is installed with the package: ``slurm/run.sbatch`` of its sources."""

from __future__ import annotations

from importlib import resources

#: How often a job is requeued whose script is asked for with ``--requeue``.
MAX_REQUEUES = 100
_SWITCH = "${HANDOFF_MAX_REQUEUES:-0}"


def batch_script(requeues: bool = False) -> str:
    """Return the script; with ``requeues``, its default is to have the job requeued until the run is done."""
    text = (resources.files("handoff_mpi.launch") / "run.sbatch").read_text()
    return text.replace(_SWITCH, f"${{HANDOFF_MAX_REQUEUES:-{MAX_REQUEUES}}}") if requeues else text
