"""Measures how long rank 0 has been silent, for a worker's heartbeat timeout. Pure, like the machine."""

from __future__ import annotations

#: Silence counts only while this rank polls at least this often: a suspended or blocked rank could not receive.
MAX_SILENCE_STEP_S = 1.0


class SilenceTimer:
    """Counts the silence of rank 0.

    Where MPI does not tell, a rank whose host was cut off can notice it in no other way. Rank 0 greets the ranks of
    other hosts many times within the limit, also without other messages.

    Args:
        limit_s: seconds of silence that are too many; 0 never ends.
        now: when counting starts, in seconds.
    """

    def __init__(self, limit_s: float, now: float) -> None:
        self._limit_s = limit_s
        self._looked_at = now
        self.silence_s = 0.0

    def has_ended(self, has_heard: bool, now: float) -> bool:
        """Take in whether rank 0 was heard at this look; return whether it has been silent for too long."""
        self.silence_s += min(now - self._looked_at, MAX_SILENCE_STEP_S)
        self._looked_at = now
        if has_heard:
            self.silence_s = 0.0
        return 0.0 < self._limit_s < self.silence_s

    def restart(self) -> None:
        """Rank 0 was found alive."""
        self.silence_s = 0.0
