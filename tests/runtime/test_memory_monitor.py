"""When a rank is called short of memory, and how much it must give up."""

from __future__ import annotations

import pytest

from handoff_mpi.messages import CRITICAL, HIGH, NORMAL
from handoff_mpi.resources.memory import Usage
from handoff_mpi.runtime.memory_monitor import MEMORY_CHECK_INTERVAL_S, SCALE_NBYTES, MemoryMonitor, next_level
from handoff_mpi.worker.budget import UNLIMITED_NBYTES

LIMIT = 1000


class Scripted:
    """A gauge that shows the value that the test sets, and counts how often it is asked."""

    def __init__(self, *usages):
        self.usages = list(usages)
        self.count = 0

    def measure(self, children=(), shared_nbytes=0):
        self.count += 1
        return self.usages


def relief_of(*used, limit=LIMIT, ranks=1, can_spill=True):
    gauge = Scripted(*(Usage(each, limit, "it") for each in used))
    return MemoryMonitor(gauge, ranks, tuple, int, can_spill), gauge


@pytest.mark.parametrize(
    ("level", "share", "then"),
    [
        (NORMAL, 0.74, NORMAL),
        (NORMAL, 0.75, HIGH),
        (NORMAL, 0.90, CRITICAL),
        (HIGH, 0.66, HIGH),
        (HIGH, 0.64, NORMAL),
        (HIGH, 0.89, HIGH),
        (HIGH, 0.90, CRITICAL),
        (CRITICAL, 0.81, CRITICAL),
        (CRITICAL, 0.79, HIGH),
        (CRITICAL, 0.64, NORMAL),
    ],
)
def test_a_level_ends_well_below_where_it_begins(level, share, then):
    assert next_level(level, share) == then


def test_the_machine_is_told_while_memory_is_short_and_once_when_it_is_not_any_more():
    memory_monitor, gauge = relief_of(700)
    levels = []
    for now, used in enumerate((700, 760, 700, 640, 640)):
        gauge.usages = [Usage(used, LIMIT, "it")]
        pressed = memory_monitor.look(float(now))
        levels.append(None if pressed is None else pressed.level)
    assert levels == [None, HIGH, HIGH, NORMAL, None]


def test_the_worst_limit_tells_how_short_memory_is_and_how_much_is_too_much():
    memory_monitor, _ = relief_of(640, 920, 760)
    pressed = memory_monitor.look(0.0)
    assert (pressed.level, pressed.excess_nbytes, pressed.can_spill) == (CRITICAL, 270, True)
    assert pressed.words == "0 of 0 MB of it are in use"


def test_of_a_large_machine_no_large_share_must_be_left():
    limit, used = 40 * SCALE_NBYTES, 39 * SCALE_NBYTES
    assert relief_of(used, limit=limit)[0].look(0.0) is None
    assert relief_of(used, limit=limit, ranks=20)[0].look(0.0).level == CRITICAL
    pressed = relief_of(used + SCALE_NBYTES * 8 // 10, limit=limit)[0].look(0.0)
    assert (pressed.level, pressed.excess_nbytes) == (HIGH, pytest.approx(SCALE_NBYTES * 0.15))


def test_memory_is_looked_at_some_times_a_second_at_any_load():
    memory_monitor, gauge = relief_of(100)
    for tick in range(10_000):
        memory_monitor.look(100.0 + tick * 1e-4)
        memory_monitor.came_in(0)
    assert gauge.count == 1 / MEMORY_CHECK_INTERVAL_S


def test_memory_is_looked_at_sooner_where_much_has_come_in():
    memory_monitor, gauge = relief_of(600, ranks=2)
    memory_monitor.look(0.0)
    memory_monitor.came_in(50)
    memory_monitor.look(0.01)
    assert gauge.count == 1
    memory_monitor.came_in(1)
    memory_monitor.look(0.01)
    assert gauge.count == 2
    memory_monitor.spilled()
    memory_monitor.look(0.01)
    assert gauge.count == 3


def room_of(*used, **options):
    memory_monitor, _ = relief_of(*used, **options)
    memory_monitor.look(0.0)
    return memory_monitor.room_nbytes


def test_room_is_what_is_left_until_values_must_leave_and_the_least_counts():
    assert room_of(350) == pytest.approx(400, abs=1)
    assert room_of(350, 650, 500) == pytest.approx(100, abs=1)
    assert room_of(850) == pytest.approx(-100, abs=1)


def test_ranks_share_the_room_of_a_small_limit_but_not_that_of_their_own_part():
    assert room_of(350, ranks=4) == pytest.approx(100, abs=1)
    memory_monitor, gauge = relief_of(ranks=4)
    gauge.usages = [Usage(350, LIMIT, "the rank's part", is_own=True)]
    memory_monitor.look(0.0)
    assert memory_monitor.room_nbytes == pytest.approx(400, abs=1)


def test_a_rank_of_a_large_host_may_take_more_than_its_part_of_the_room():
    limit = 4 * SCALE_NBYTES
    assert room_of(limit // 4, limit=limit, ranks=8) == limit // 2 - 7 * 256 * 1024 * 1024


def test_where_nothing_can_be_measured_nothing_is_short():
    memory_monitor, _ = relief_of()
    assert memory_monitor.look(0.0) is None
    assert memory_monitor.room_nbytes == UNLIMITED_NBYTES


def test_what_keeps_values_from_being_moved_out_is_said_once(capsys):
    memory_monitor, _ = relief_of(760)
    for _ in range(2):
        memory_monitor.give_up_spilling(OSError(28, "No space left on device"))
    assert capsys.readouterr().err == (
        "handoff: memory is short, and values cannot be moved out of it: [Errno 28] No space left on device\n"
    )
    assert not memory_monitor.look(0.0).can_spill
