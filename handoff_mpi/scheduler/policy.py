"""The user's choices for a run that the scheduler must know."""

from __future__ import annotations

from dataclasses import dataclass

#: Most tasks in flight at a slot.
MAX_BATCH = 256


@dataclass(slots=True)
class Policy:
    """The user's choices for a run.

    Attributes:
        max_retries: further tries after an exception or a time-out, for functions that do not say.
        crash_limit: deaths of its process after which a function is failed.
        stop_on_failure: dispatch nothing more once a function failed.
        max_concurrency: most calls at once, or None.
        heartbeat_timeout_s: seconds without a sign of life after which a rank's work is reassigned.
        window: most tasks in flight at a slot.
        adds_slots: whether a rank that is given more cores in mid-run is given a slot for each.
        tracker_timeout_s: seconds that a task waits at most for the user's tracker to grant it; None sets no limit.
        stop_at: when the run will be stopped (seconds, the machine's clock): what cannot finish by then does not start.
        retry_on: names of the exceptions after which a function that does not say is tried again; None for the default.
        retry_delay_s: seconds before the first retry of functions that do not say; later ones wait longer.
        seed: what the jitter of such waits depends on.
    """

    max_retries: int = 3
    crash_limit: int = 3
    stop_on_failure: bool = False
    max_concurrency: int | None = None
    heartbeat_timeout_s: float = 300.0
    window: int = MAX_BATCH
    adds_slots: bool = True
    tracker_timeout_s: float | None = None
    stop_at: float = float("inf")
    retry_on: tuple[str, ...] | None = None
    retry_delay_s: float = 0.0
    seed: int = 0
