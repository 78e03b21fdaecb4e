"""Rank 0's questions to hosts that have gone silent, asked beside its loop."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from handoff_mpi.runtime.host_probe import LIVES, SILENT, HostProbe, Question
from handoff_mpi.scheduler import HostFailureDetector

#: So many hosts are asked at once.
_MAX_OPEN = 64


class HostGuard:
    """Looks after the other hosts: asks those that have gone silent, and tells which ranks were lost with theirs."""

    def __init__(self, watch: HostFailureDetector, host_probe: HostProbe) -> None:
        self._watch = watch
        self._host_probe = host_probe
        self._open: dict[str, HostInquiry] = {}

    def look(self, heard: Mapping[int, float], gone: Collection[int], now: float) -> list[tuple[int, str]]:
        """Ask what is to be asked, see what was answered; return ranks that are lost, and why."""
        for host, control in self._watch.look(heard, gone, now, _MAX_OPEN - len(self._open)):
            if host not in self._open and self._host_probe.name_of(host) is not None:
                self._open[host] = HostInquiry(self._host_probe, host, control, now)
        lost = []
        for host, inquiry in list(self._open.items()):
            verdict = inquiry.verdict(now)
            if verdict is not None:
                del self._open[host]
                # One of its ranks may have been heard of meanwhile: then it was merely slow.
                if verdict and self._watch.is_silent(host, heard, gone, now):
                    lost += [(rank, f"its host {host} no longer answers") for rank in self._watch.ranks(host, gone)]
        return lost

    def close(self) -> None:
        """Ask no longer."""
        for inquiry in self._open.values():
            inquiry.close()


class HostInquiry:
    """Is a host lost? Two questions at once: to the host, and to another one as a control.

    Args:
        host_probe: how hosts are reached.
        host, control: as this package calls them.
        now: the time, in seconds.
    """

    def __init__(self, host_probe: HostProbe, host: str, control: str, now: float) -> None:
        self._questions = [Question(host_probe, host_probe.name_of(name), None, now) for name in (host, control)]

    def verdict(self, now: float) -> bool | None:
        """Return whether the host is lost; None while that is open."""
        asked, control = (question.answer(now) for question in self._questions)
        if asked is None or control is None:
            return None
        return asked == SILENT and control == LIVES

    def close(self) -> None:
        """Ask no longer."""
        for question in self._questions:
            question.close()
