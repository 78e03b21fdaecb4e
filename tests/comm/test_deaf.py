"""A large message of a rank that receives nothing, in a long call or on a host that was cut off, delays no other."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from handoff_mpi.comm import RankFailed

LARGE = 1_000_000
# As between hosts: the sender must take part in handing a large message over.
OVER_TCP = {"OMPI_MCA_btl": "tcp,self", "OMPI_MCA_pml": "ob1"}


def test_others_are_heard_while_an_unresponsive_rank_sends(mpirun, tmp_path):
    ended = mpirun(3, __file__, tmp_path / "heard", env=OVER_TCP)
    assert ended.rc == 0, ended.err
    assert "in order" in ended.out


def test_what_a_rank_announced_before_it_died_is_given_up(mpirun, tmp_path):
    ended = mpirun(2, __file__, tmp_path / "heard", "die", ft=True, env=OVER_TCP)
    assert ended.out == "gone [1]\n", ended.err


@pytest.mark.long
def test_what_a_rank_that_was_given_up_announced_is_given_up(mpirun, tmp_path):
    ended = mpirun(3, __file__, tmp_path / "heard", "drop", env=OVER_TCP)
    assert ended.out == "dropped\n", ended.err


ENDLESS = """
import pickle
from types import SimpleNamespace
from handoff_mpi.comm import mpi_transport

blob = pickle.dumps(("again", 0))

class Message:
    def Recv(self, target): target[0][:] = blob

class Comm:
    def Is_inter(self): return False
    def Dup(self): return self
    def Set_errhandler(self, handler): pass
    def Get_rank(self): return 0
    def Get_size(self): return 2
    def Split_type(self, kind): return self
    def allgather(self, value): return [value]
    def Free(self): pass
    def Improbe(self, *about): return Message()

transport = mpi_transport.MPITransport(Comm())
transport._status = SimpleNamespace(
    Get_source=lambda: 1, Get_tag=lambda: mpi_transport._MESSAGE, Get_count=lambda kind: len(blob)
)
assert [transport.poll()[0].message for _ in range(2)] == [("again", 0)] * 2
"""


def test_messages_that_never_end_are_looked_at(mpirun):
    ended = mpirun(1, "-c", ENDLESS, timeout_s=30)
    assert ended.rc == 0, ended.err


def wait_until(is_so):
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.001)


def be_unresponsive(transport, heard):
    """Rank 1: send, and be in a call until rank 0 has heard rank 2."""
    wait_until(transport.poll)  # now they are connected
    transport.send(0, ("first", bytes(LARGE)))
    transport.send(0, ("second",))
    transport.send(0, ("third",), [bytes(LARGE)])
    transport.send(0, ("fourth", bytes(LARGE)), [bytes(10)])
    heard.with_name("sent").touch()
    wait_until(heard.exists)
    transport.flush(30)


def listen(transport, heard):
    """Rank 0: hear rank 2 first, which sends last."""
    transport.send(1, ("begin",))
    arrived = []
    end = time.monotonic() + 60
    while len(arrived) < 5:
        assert time.monotonic() < end, [each.message[0] for each in arrived]
        arrived += transport.poll()
        if any(each.source == 2 for each in arrived):
            heard.touch()
    from_1 = [each for each in arrived if each.source == 1]
    assert [each.message[0] for each in from_1[:2]] == ["first", "second"]
    assert {each.message[0]: len(each.buffers[0]) for each in from_1[2:]} == {"third": LARGE, "fourth": 10}
    assert len(from_1[0].message[1]) == LARGE
    assert not transport.is_transferring
    print("in order", flush=True)


def die(transport, heard):
    """Rank 1: announce what never comes."""
    wait_until(transport.poll)
    transport.send(0, ("first", bytes(LARGE)))
    transport.send(0, ("second",))
    wait_until(heard.exists)
    os.kill(os.getpid(), signal.SIGKILL)


def lose(transport, heard):
    """Rank 0: hear of the death, and nothing else."""
    transport.send(1, ("begin",))
    wait_until(lambda: transport.poll() or transport._held)
    heard.touch()
    arrived = []
    wait_until(lambda: arrived.extend(transport.poll()) or (arrived and not transport._held))
    for _ in range(100):
        arrived += transport.poll()
    assert all(isinstance(each, RankFailed) for each in arrived), arrived
    print("gone", [each.rank for each in arrived], flush=True)


def drop(transport, heard):
    """Rank 0: give up a rank whose message was announced."""
    transport.send(1, ("begin",))
    wait_until(lambda: transport.poll() or transport._held)
    transport.drop(1)
    assert transport.poll() == []
    assert not transport._held
    assert not transport.is_transferring
    heard.touch()
    print("dropped", flush=True)


def speak(transport, heard):
    """Rank 2: once rank 1 has sent, say something."""
    wait_until(heard.with_name("sent").exists)
    transport.send(0, ("here",))
    assert transport.flush(30)


if __name__ == "__main__":
    from handoff_mpi.comm import mpi, mpi_transport

    transport = mpi_transport.MPITransport()
    place, *what = Path(sys.argv[1]), *sys.argv[2:]
    if what == ["die"]:
        (die if transport.rank else lose)(transport, place)
        mpi.leave(0)
    if transport.rank == 1:
        be_unresponsive(transport, place)
    elif transport.rank == 0:
        (drop if what else listen)(transport, place)
    elif not what:
        speak(transport, place)
    transport.allgather(None)
