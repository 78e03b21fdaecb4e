"""Collects a rank's commands of one turn, and the completions that it reports to rank 0. Pure."""

from __future__ import annotations

from handoff_mpi import messages
from handoff_mpi.messages import Entry, Message
from handoff_mpi.worker.events import Command, Send

#: Completions gather for at most this long while there is more to run.
REPORT_DELAY_S = 0.001
FLUSH_COUNT = 64


class Outbox:
    """The commands of a turn, in order, and the completions that gather for rank 0.

    Args:
        run: number of the run, part of every message.

    Attributes:
        now: the time of the turn, in seconds.
        commands: what is to be done.
        done: calls that have ended, of which rank 0 was not told yet.
        last_told: the time of the last message to rank 0.
    """

    def __init__(self, run: int) -> None:
        self.now = 0.0
        self.commands: list[Command] = []
        self.done: list[Entry] = []
        self.last_told = 0.0
        self._run = run
        self._done_since = 0.0

    def send(self, rank: int, message: Message) -> None:
        """Have ``message`` sent to ``rank``, as one rank to another."""
        self.commands.append(Send(rank, message))

    def tell(self, message: Message) -> None:
        """Have rank 0, which schedules, told ``message``: a sign of life as well."""
        self.last_told = self.now
        self.commands.append(Send(0, message))

    def note(self, entry: Entry) -> None:
        """A call has ended: the next flush reports it to rank 0."""
        if not self.done:
            self._done_since = self.now
        self.done.append(entry)

    def is_due(self, now: float, more: int = 0) -> bool:
        """Whether the completions at hand, and so many more, must go home, though there is more to run."""
        return now - self._done_since >= REPORT_DELAY_S or len(self.done) + more >= FLUSH_COUNT

    def hurry(self) -> None:
        """Report the completions at hand in this turn."""
        self._done_since = -REPORT_DELAY_S

    @property
    def flush_by(self) -> float:
        """When the completions at hand must go home at the latest, in seconds."""
        return self._done_since + REPORT_DELAY_S

    def flush(self) -> None:
        """Tell rank 0 of all completions at hand."""
        done, self.done = self.done, []
        self.tell(messages.finished(self._run, done))

    def take(self) -> list[Command]:
        """Return the commands of this turn; the next one begins with none."""
        commands, self.commands = self.commands, []
        return commands
