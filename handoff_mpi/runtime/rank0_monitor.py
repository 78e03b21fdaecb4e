"""Whether rank 0 lives, looked at by a worker that waits between two runs.

Rank 0 may be silent there for hours with good reason: the user's own code runs in it. Silence proves nothing, so its
process is looked at: directly on its own host; from elsewhere its host is asked now and then, past MPI. One rank of
each host asks, the next if that one does not, and tells the others. No answer proves nothing either where asking does
not work, so it counts only after there has been one.

Where nobody can be asked (``run -n`` says how, a bare mpirun does not) it is left to the launcher. Open MPI's is seen
to do it: its daemons notice a cut by themselves (eight minutes, with its own settings) and end their ranks. For one
that never notices there is a limit so generous that it meets nobody who waits for good reason, ``idle_limit`` of a
:class:`~handoff_mpi.Cluster`.
"""

from __future__ import annotations

from collections.abc import Sequence

from handoff_mpi import messages
from handoff_mpi.comm import Transport
from handoff_mpi.resources import Capability
from handoff_mpi.runtime.host_probe import NOT_ASKED, HostProbe, Question
from handoff_mpi.runtime.process_monitor import GONE, LIVES, STOPPED, ProcessMonitor
from handoff_mpi.worker.silence_timer import SilenceTimer

#: A rank that nobody can be asked about is waited for this long: a week.
IDLE_TIMEOUT_S = 7 * 86_400.0
#: Seconds between two looks.
RANK0_CHECK_INTERVAL_S = 1.0
#: The first question comes after this long, and each after twice as long as the one before: a question may be a step
#: of Slurm's, which counts them.
FIRST_QUESTION_S = 60.0
MAX_QUESTION_INTERVAL_S = 1800.0
#: After a question that was not answered the next comes this soon; as long, the next rank of a host waits for the
#: answer to another's.
REPEAT_QUESTION_S = 60.0
#: So many questions in succession that were not answered mean a host that was cut off, if there was an answer before.
UNANSWERED = 5
#: Hosts ask this long after one another: a daemon that is called by very many at once turns some away.
HOST_QUESTION_INTERVAL_S = 0.2


class Rank0Monitor:
    """Looks after rank 0 while this rank waits for the next run.

    Args:
        transport: this rank's end.
        capabilities: of all ranks.
        host_probe: how hosts are reached, None if nobody can be asked.
        limit_s: how long rank 0 is waited for where it cannot be found alive, in seconds.
        now: the time, in seconds.
    """

    def __init__(
        self,
        transport: Transport,
        capabilities: Sequence[Capability],
        host_probe: HostProbe | None,
        limit_s: float,
        now: float,
    ) -> None:
        mine, rank_0 = capabilities[transport.rank], capabilities[0]
        is_here = mine.host == rank_0.host
        self._transport = transport
        self._pid = rank_0.pid
        self._process_monitor = ProcessMonitor(transport.rank, {0: rank_0.pid} if is_here else {})
        self._host_probe = host_probe
        self._name = None if host_probe is None or is_here else host_probe.name_of(rank_0.host)
        here = [each.rank for each in capabilities if each.host == mine.host]
        self._mates = [rank for rank in here if rank != transport.rank]
        hosts = list(dict.fromkeys(each.host for each in capabilities))
        self._host_s = HOST_QUESTION_INTERVAL_S * hosts.index(mine.host)
        self._turn_s = REPEAT_QUESTION_S * here.index(transport.rank)
        self._has_answered = False
        self._question: Question | None = None
        self._silence_timer = SilenceTimer(limit_s, now)
        self.begin(now)

    def begin(self, now: float) -> None:
        """The wait for a run begins."""
        self.end()
        self._silence_timer.restart()
        self._unanswered = 0
        self._pause_s = FIRST_QUESTION_S
        self._next_look = now
        self._next_question = now + FIRST_QUESTION_S + self._host_s + self._turn_s

    def end(self) -> None:
        """The wait is over: what was asked is not wanted any more."""
        if self._question is not None:
            self._question.close()
            self._question = None

    def look(self, has_heard: bool, now: float) -> None:
        """Look and ask, if it is time to; ``has_heard`` tells whether rank 0 has said anything.

        Raises:
            ConnectionError: rank 0 was lost, or this host was cut off from it.
        """
        if has_heard:
            self._silence_timer.restart()
        if now < self._next_look:
            return
        self._next_look = now + RANK0_CHECK_INTERVAL_S
        self._look_at_process(now)
        self._ask(now)
        if self._silence_timer.has_ended(False, now):
            silent_s = self._silence_timer.silence_s
            raise ConnectionError(
                f"rank 0 has been silent for {silent_s:.0f} s between two runs, and could not be asked (idle_limit)"
            )

    def _look_at_process(self, now: float) -> None:
        state, reason = self._process_monitor.examine(0, now)
        if state in (GONE, STOPPED):
            raise ConnectionError(f"rank 0 is lost: {reason}")
        if state == LIVES:
            self._silence_timer.restart()

    def _ask(self, now: float) -> None:
        if self._host_probe is None or self._name is None:
            return
        if self._question is None:
            if now >= self._next_question:
                self._question = Question(self._host_probe, self._name, self._pid, now)
            return
        answer = self._question.answer(now)
        if answer is not None:
            self._question = None
            for rank in self._mates:
                self._transport.send(rank, messages.asked(answer))
            self.take(answer, now)

    def take(self, answer: str, now: float) -> None:
        """Take in an answer, to this rank or to another of its host.

        Raises:
            ConnectionError: rank 0 was lost, or this host was cut off from it.
        """
        if answer == LIVES:
            self._has_answered, self._unanswered = True, 0
            self._silence_timer.restart()
            self._pause_s = min(2 * self._pause_s, MAX_QUESTION_INTERVAL_S)
        else:
            self._unanswered += answer != NOT_ASKED
            self._pause_s = REPEAT_QUESTION_S
        self._next_question = now + self._pause_s + self._turn_s
        if not self._has_answered:
            return
        if answer == GONE:
            raise ConnectionError("the process of rank 0 no longer exists")
        if self._unanswered >= UNANSWERED:
            raise ConnectionError(f"the host of rank 0 has not answered {self._unanswered} questions in succession")
