"""A status.json of a run in progress, made up for tests and pictures."""

from __future__ import annotations

NOW = 1_770_000_751.0
_NAMES = ("load", "fft", "fit", "report", "tidy", "sweep")


def fake_status(functions=100_000, hosts=4, gpus=2, names=6, failed=2, lost=1):
    """Return the fields of a run that is half over."""
    running = min(16 * hosts, functions // 4)
    done = functions // 2
    counts = {"waiting": functions - done - running - failed, "ready": 0, "running": running, "done": done}
    by_name = {}
    for number in range(names):
        total = functions // names
        by_name[f"{_NAMES[number % 6]}{number // 6 or ''}"] = {
            "total": total,
            "running": running // names if number else 0,
            "done": total if number == 0 else total // (number + 1),
            "failed": failed if number == 2 else 0,
            "mean_s": 0.03 + 1.7 * number,
            "busy_s": 3.0,
        }
    host = {"ranks": 4, "slots": 16, "busy": 15, "cores": 16, "cpu_percent": 97.4, "memory_mb": 64_000}
    host |= {"memory_used_mb": 12_345, "gpus": gpus, "gpus_claimed": gpus / 2}
    calls = [
        {"id": f"'fit-{number}'", "name": "fit", "rank": number, "host": "n1", "attempt": 1 + number % 2}
        | {"started_s": NOW - 700 + number}
        for number in range(10)
    ]
    failures = [{"what": "ValueError: bad spectrum at dag.py:12", "count": failed, "first": "'fit-3'"}]
    return {
        "status": "running",
        "dag_id": "spectra",
        "functions": functions,
        "started_s": NOW - 751,
        "time_s": NOW,
        "beat": 7,
        "counts": {**counts, "failed": failed, "skipped": 0, "retries": 3},
        "by_name": by_name,
        "rate_per_s": 83.2,
        "eta_s": 433.0,
        "hosts": {f"n{number}": host for number in range(1, hosts + 1)},
        "longest": calls,
        "lost_ranks": {str(rank): "its process was killed by SIGKILL" for rank in range(2, 2 + lost)},
        "probation": {},
        "failures": failures if failed else [],
    }
