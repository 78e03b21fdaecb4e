"""The promises of a worker, as dialogues: messages and ends of calls with their times, and the exact answers."""

from __future__ import annotations

import itertools
import random

import pytest

from handoff_mpi.messages import (
    CRITICAL,
    DIED,
    HIGH,
    INLINE_RESULT_NBYTES,
    INSIST,
    ISOLATE,
    KEEP_REMOTE,
    NORMAL,
    OK,
    RAISED,
    RETRACT,
    STOP,
    TIMED_OUT,
    TIMEOUT,
    VALUE,
)
from handoff_mpi.serialization import PICKLED, PLAIN
from handoff_mpi.worker.broadcast_tree import REFERRED_NBYTES
from handoff_mpi.worker.events import Drop, Spill
from handoff_mpi.worker.fetching import MAX_HOPS
from handoff_mpi.worker.spilling import PORTION_COUNT, PORTION_NBYTES
from tests.worker.transcript import (
    CLAIM,
    Dialogue,
    absent,
    arrives,
    constant,
    dispatch,
    fetch,
    forget,
    lost,
    pressed,
    recall,
    received,
    refer,
    sent,
    stop,
    task,
    value,
)

LARGE = INLINE_RESULT_NBYTES + 1


# -- calls ----------------------------------------------------------------------------------------------


def test_what_is_dispatched_is_called_and_a_small_value_rides_home():
    rank = Dialogue()
    assert rank.tell(0.0, dispatch(task(0))) == ["call 0#1 on slot 0"]
    assert not rank.is_idle
    assert rank.tell(1.0, rank.ended(nbytes=INLINE_RESULT_NBYTES)) == ["to 0: finished 0#1 ok with its value"]
    assert rank.is_idle
    assert rank.worker.held == {}


def test_a_large_value_stays_where_it_was_made():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0)))
    assert rank.tell(1.0, rank.ended(nbytes=LARGE)) == ["put 0", f"to 0: finished 0#1 ok holding {LARGE}"]
    assert rank.worker.held == {0: LARGE}


def test_a_small_value_that_is_to_be_encoded_where_it_was_made_stays_too():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0, flags=KEEP_REMOTE)))
    assert rank.tell(1.0, rank.ended(nbytes=8)) == ["put 0", "to 0: finished 0#1 ok holding 8"]


def test_a_value_that_lies_in_a_file_too_is_reported_as_such():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0)))
    ended = rank.ended(nbytes=LARGE, is_persisted=True)
    assert rank.tell(1.0, ended)[-1] == f"to 0: finished 0#1 ok holding {LARGE} in a file too"


@pytest.mark.parametrize(("status", "says"), [(RAISED, "raised (raised)"), (DIED, "died (died)")])
def test_a_call_that_ended_badly_is_told_and_the_slot_goes_on(status, says):
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0), task(1)))
    commands = rank.tell(1.0, rank.ended(status=status))
    assert commands == ["call 1#1 on slot 0"]
    assert rank.tell(2.0, rank.ended()) == [f"to 0: finished 0#1 {says}, 1#1 ok with its value"]


def test_each_slot_runs_one_call_at_once_in_order():
    rank = Dialogue(slots=2)
    assert rank.tell(0.0, dispatch(task(0), task(1))) == ["call 0#1 on slot 0"]
    assert rank.tell(0.0, dispatch(task(2), slot=1)) == ["call 2#1 on slot 1"]
    assert rank.tell(0.05, rank.ended(slot=0)) == ["call 1#1 on slot 0"]
    assert rank.tell(0.06, rank.ended(slot=1)) == ["to 0: finished 0#1 ok with its value, 2#1 ok with its value"]


def test_a_slot_keeps_its_claim_until_it_is_given_another():
    rank = Dialogue(slots=2)
    rank.tell(0.0, dispatch(task(0), claim=(2.0, (1,))))
    rank.tell(1.0, rank.ended(), dispatch(task(1), claim=None), dispatch(task(2), slot=1))
    assert [(call.cores, call.devices) for call in (rank.calls[0], rank.calls[1])] == [(2.0, (1,)), CLAIM]


def test_a_slot_that_the_rank_did_not_have_before_is_used():
    rank = Dialogue(1)
    rank.tell(0.0, dispatch(task(0)))
    assert rank.tell(0.0, dispatch(task(1), task(2), slot=3)) == ["call 1#1 on slot 3"]
    assert rank.tell(1.0, rank.ended(3))[0] == "call 2#1 on slot 3"


def test_a_dispatch_of_what_runs_or_waits_already_is_ignored():
    rank = Dialogue()
    batch = dispatch(task(0), task(1))
    assert rank.tell(0.0, batch, batch) == ["call 0#1 on slot 0"]
    assert rank.tell(1.0, rank.ended()) == ["call 1#1 on slot 0"]
    assert rank.tell(1.0, dispatch(task(1))) == []
    assert rank.tell(1.01, rank.ended()) == ["to 0: finished 0#1 ok with its value, 1#1 ok with its value"]
    assert rank.is_idle


def test_an_end_of_a_call_that_comes_twice_counts_once():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0)))
    ended = rank.ended()
    assert rank.tell(1.0, ended, ended) == ["to 0: finished 0#1 ok with its value"]


def test_code_is_learned_before_it_is_called():
    rank = Dialogue()
    commands = rank.tell(0.0, dispatch(task(0), codes=[(0, b"code")]))
    assert commands == ["learn codes [(0, b'code')]", "call 0#1 on slot 0"]


# -- when completions go home -----------------------------------------------------------------------------


def test_completions_gather_while_there_is_more_to_run_but_for_a_millisecond_at_most():
    rank = Dialogue()
    rank.tell(0.0, dispatch(*[task(number) for number in range(4)]))
    assert rank.tell(1.0, rank.ended()) == ["call 1#1 on slot 0"]
    assert rank.tell(1.0005, rank.ended()) == ["call 2#1 on slot 0"]
    assert rank.tell(1.0011) == ["to 0: finished 0#1 ok with its value, 1#1 ok with its value"]


def test_completions_go_home_at_once_when_a_slot_is_idle():
    rank = Dialogue(slots=2)
    rank.tell(0.0, dispatch(task(0), task(1)))
    assert rank.tell(1.0, rank.ended()) == ["call 1#1 on slot 0", "to 0: finished 0#1 ok with its value"]


def test_sixty_four_completions_go_home_at_once():
    rank = Dialogue()
    rank.tell(0.0, dispatch(*[task(number) for number in range(65)]))
    for _ in range(63):
        assert len(rank.tell(1.0, rank.ended())) == 1
    assert rank.tell(1.0, rank.ended())[1].count("ok") == 64


@pytest.mark.parametrize("seed", range(20))
def test_short_calls_follow_one_another_as_any_other_call_ends(seed):
    rng, now, ends = random.Random(seed), 0.0, 0
    slots, is_rare = rng.choice((1, 2)), rng.random() < 0.3  # values that stay here, or come from others
    twins = Dialogue(slots=slots), Dialogue(slots=slots)
    short, long = [each.worker for each in twins]
    long._follow = lambda event: None
    numbers = itertools.count()
    for _ in range(300):
        now += rng.choice((1e-5,) * 20 + (1e-3, 0.06))
        running = [slot for slot, work in enumerate(short.running) if work is not None]
        if not running or rng.random() < 0.2:
            events = [dispatch(*some_tasks(rng, numbers, is_rare), slot=rng.randrange(slots))] * 2
        else:
            how = {"slot": rng.choice(running), "nbytes": rng.choice((8,) * 40 + (LARGE,) * is_rare)}
            how["status"] = rng.choice((OK,) * 20 + (RAISED,))
            events = [each.ended(**how) for each in twins]
            ends += 1
        lines = [each.tell(now, event) for each, event in zip(twins, events, strict=True)]
        assert lines[0] == lines[1]
        assert short.next_wakeup() == long.next_wakeup()
        assert short.slots.latest == long.slots.latest
    assert ends > 200


def some_tasks(rng, numbers, is_rare):
    """Tasks that are dispatched together, many of which take the value of the one before."""
    tasks, before = [], None
    for number in itertools.islice(numbers, rng.randrange(1, 12)):
        sources = [sent(1000)] if rng.random() < 0.1 else []
        if before is not None and rng.random() < 0.5:
            sources.append(value(before, 1))
        if is_rare and rng.random() < 0.02:
            sources.append(value(2000, 2))
        tasks.append(task(number, *sources, flags=rng.choice((0,) * 40 + (KEEP_REMOTE,) * is_rare)))
        before = number
    return tasks


def test_it_wakes_up_to_send_completions_home():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0), task(1)))
    rank.tell(1.0, rank.ended())
    assert rank.worker.next_wakeup() == pytest.approx(1.001)


# -- inputs ---------------------------------------------------------------------------------------------


def test_inputs_that_come_along_or_are_held_already_are_not_fetched():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0)))
    rank.tell(1.0, rank.ended(nbytes=LARGE))
    assert rank.tell(2.0, dispatch(task(2, sent(1), value(0, 1)))) == ["call 2#1 on slot 0"]


def test_an_input_is_fetched_from_a_rank_that_holds_it_before_the_call():
    rank = Dialogue()
    assert rank.tell(0.0, dispatch(task(1, value(0, 2, 3)))) == ["to 2: fetch 0 on request_id 0"]
    assert rank.tell(1.0, arrives(2, 0)) == ["put 0", "call 1#1 on slot 0"]


def test_inputs_of_queued_tasks_are_fetched_while_a_call_runs():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(7)))
    asked = ["to 2: fetch 0 on request_id 0", "to 3: fetch 5 on request_id 1"]
    assert rank.tell(0.01, dispatch(task(1, value(0, 2)), task(2, value(5, 3)))) == asked
    assert rank.tell(0.02, arrives(3, 1), arrives(2, 0)) == ["put 5", "put 0"]
    assert rank.tell(0.03, rank.ended()) == ["call 1#1 on slot 0"]
    assert rank.tell(0.031, rank.ended())[0] == "call 2#1 on slot 0"


def test_holders_are_asked_in_turn_and_rank_0_is_told_when_none_has_it():
    rank = Dialogue()
    assert rank.tell(0.0, dispatch(task(1, value(0, 2, 1, 3)))) == ["to 2: fetch 0 on request_id 0"]
    assert rank.tell(1.0, absent(2, 0)) == ["to 3: fetch 0 on request_id 1"]
    assert rank.tell(2.0, absent(3, 1)) == ["to 0: unfetched for 1#1: 0 asked of [2, 3]"]
    assert rank.is_idle


def test_tasks_that_want_the_same_value_share_one_fetch_of_it():
    rank = Dialogue(slots=2)
    assert rank.tell(0.0, dispatch(task(1, value(0, 2)), task(2, value(0, 2)))) == ["to 2: fetch 0 on request_id 0"]
    assert rank.tell(0.5, dispatch(task(3, value(0, 2)), slot=1)) == []
    assert rank.tell(1.0, arrives(2, 0)) == ["put 0", "call 1#1 on slot 0", "call 3#1 on slot 1"]


def test_all_who_share_a_fetch_are_handed_back_if_it_fails():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(1, value(0, 2)), task(2, value(0, 2))))
    assert rank.tell(1.0, absent(2, 0)) == [
        "to 0: unfetched for 1#1: 0 asked of [2]",
        "to 0: unfetched for 2#1: 0 asked of [2]",
    ]


def test_a_value_encoded_for_this_rank_is_fetched_for_itself_and_not_held():
    rank = Dialogue()
    assert rank.tell(0.0, dispatch(task(1, value(0, 2, codec="c"), value(0, 2)))) == [
        "to 2: fetch 0 on request_id 0 by c",
        "to 2: fetch 0 on request_id 1",
    ]
    assert rank.tell(1.0, arrives(2, 0)) == []
    assert rank.worker.held == {}
    assert rank.tell(2.0, arrives(2, 1)) == ["put 0", "call 1#1 on slot 0"]
    assert rank.calls[0].fetched[0, "c"][1] == 2


def test_a_codec_that_raises_at_the_holder_fails_the_task():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(1, value(0, 2, 3, codec="c"))))
    error = ("ValueError", "cannot encode", "Traceback")
    assert rank.tell(0.9, absent(2, 0, (RAISED, error))) == ["to 0: finished 1#1 raised (ValueError)"]


def test_an_encoding_has_the_timeout_of_the_call_that_it_is_for_and_ends_no_other_call():
    rank = Dialogue()
    assert rank.tell(
        0.0, dispatch(*(task(n, value(0, 2, codec="c"), timeout_s=t) for n, t in ((1, 2.0), (2, None))))
    ) == [
        "to 2: fetch 0 on request_id 0 by c within 2 s",
        "to 2: fetch 0 on request_id 1 by c",
    ]
    error = ("timeout", "encoding took longer", "")
    assert rank.tell(0.5, absent(2, 0, (TIMED_OUT, error))) == ["to 0: finished 1#1 timed out (timeout)"]
    assert rank.tell(0.6, arrives(2, 1)) == ["call 2#1 on slot 0"]


def test_an_isolated_call_has_its_inputs_encoded_in_a_child_process():
    rank = Dialogue()
    commands = rank.tell(0.0, dispatch(task(1, value(0, 2, codec="c"), flags=ISOLATE)))
    assert commands == ["to 2: fetch 0 on request_id 0 by c within inf s"]


def test_rank_0_receives_once_which_call_waits_for_an_encoding_that_takes_long():
    rank = Dialogue()
    rank.tell(5.0, dispatch(task(1, value(0, 2, codec="c"), value(7, 3))))
    assert rank.worker.next_wakeup() == 6.0
    assert rank.tell(6.0) == ["to 0: encoding 0 for 1#1 at 2 since 5"]
    assert rank.worker.next_wakeup() > 100
    assert rank.tell(9.0) == []


def test_an_encoding_that_ends_soon_is_not_reported():
    rank = Dialogue()
    rank.tell(5.0, dispatch(task(1, value(0, 2, codec="c"))))
    rank.tell(5.5, arrives(2, 0))
    assert rank.tell(6.0) == ["to 0: alive, 1#1 runs since 5.5"]


def test_a_task_that_has_its_inputs_overtakes_one_that_waits_for_them():
    rank = Dialogue()
    commands = rank.tell(0.0, dispatch(task(1, value(0, 2)), task(2)))
    assert commands == ["to 2: fetch 0 on request_id 0", "call 2#1 on slot 0"]
    assert rank.tell(0.01, arrives(2, 0)) == ["put 0"]
    assert rank.tell(0.02, rank.ended()) == ["call 1#1 on slot 0"]


def test_large_constants_are_waited_for():
    rank = Dialogue()
    assert rank.tell(0.0, dispatch(task(0, constants=(4, 5)), task(1, constants=(5,)))) == []
    assert rank.tell(1.0, constant(4)) == ["learn constant 4"]
    assert rank.tell(2.0, constant(5)) == ["learn constant 5", "call 0#1 on slot 0"]
    assert rank.tell(2.01, rank.ended(), dispatch(task(2, constants=(4,)))) == ["call 1#1 on slot 0"]
    assert "call 2#1 on slot 0" in rank.tell(2.02, rank.ended())


def test_an_input_the_shell_cannot_find_hands_the_task_back_and_the_slot_goes_on():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0)))
    rank.tell(1.0, rank.ended(nbytes=LARGE))
    rank.tell(2.0, dispatch(task(1, value(0, 1)), task(2)))
    assert rank.tell(3.0, rank.missing(0)) == [
        "drop 0",
        "to 0: unfetched for 1#1: 0 asked of [1]",
        "call 2#1 on slot 0",
    ]
    assert rank.worker.held == {}


def test_a_lost_copy_of_a_file_says_nothing_of_the_file():
    rank = Dialogue(reads_files=False)
    assert rank.tell(0.0, dispatch(task(1, value(0)))) == ["to 0: fetch 0 on request_id 0"]
    rank.tell(1.0, arrives(0, 0))
    assert rank.tell(2.0, rank.missing(0)) == ["drop 0", "to 0: unfetched for 1#1: 0 asked of [1]"]


def test_a_lost_copy_of_a_file_says_nothing_of_the_file_to_the_next_call_that_misses_it_either():
    rank = Dialogue(reads_files=False)
    rank.tell(0.0, dispatch(task(1, value(0)), task(2, value(0))))
    rank.tell(1.0, arrives(0, 0))
    assert rank.tell(2.0, rank.missing(0))[-1] == "call 2#1 on slot 0"
    assert rank.tell(2.0, rank.missing(0)) == ["to 0: unfetched for 2#1: 0 asked of [1]"]


def test_a_file_that_is_gone_is_told_as_asked_of_nobody():
    rank = Dialogue()
    assert rank.tell(0.0, dispatch(task(1, value(0)))) == ["call 1#1 on slot 0"]
    assert rank.tell(1.0, rank.missing(0)) == ["to 0: unfetched for 1#1: 0 asked of []"]


def test_an_input_only_this_rank_was_thought_to_hold_is_told_as_asked_of_itself():
    rank = Dialogue()
    assert rank.tell(0.0, dispatch(task(1, value(0, 1)))) == ["to 0: unfetched for 1#1: 0 asked of [1]"]


def test_rank_0_is_asked_for_a_file_by_a_rank_that_cannot_see_it():
    rank = Dialogue(reads_files=False)
    assert rank.tell(0.0, dispatch(task(1, value(0)))) == ["to 0: fetch 0 on request_id 0"]
    assert rank.tell(1.0, arrives(0, 0)) == ["put 0", "call 1#1 on slot 0"]


def test_rank_0_is_told_of_transfers_if_it_wants_to_know():
    rank = Dialogue(tells_transfers=True)
    rank.tell(1.0, dispatch(task(1, value(0, 2))))
    commands = rank.tell(3.0, arrives(2, 0, nbytes=5000))
    assert commands == ["to 0: transferred 0 from 2, 5000 bytes in 2 s", "put 0", "call 1#1 on slot 0"]


# -- serving others -------------------------------------------------------------------------------------


def test_what_is_held_is_served_and_what_is_not_is_said_to_be_absent():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0)))
    rank.tell(1.0, rank.ended(nbytes=LARGE))
    assert rank.tell(2.0, fetch(3, 9, 0)) == ["serve 0 to 3 on request_id 9"]
    assert rank.tell(2.0, fetch(3, 9, 0, codec="c")) == ["serve 0 to 3 on request_id 9 by c"]
    assert rank.tell(2.0, fetch(3, 10, 5)) == ["to 3: absent on request_id 10"]


# -- trees of those who take one value -----------------------------------------------------------------------


MIB = 1 << 20


def made(number, nbytes=MIB, **options):
    """A rank that has made a large value."""
    rank = Dialogue(**options)
    rank.tell(0.0, dispatch(task(number)))
    rank.tell(0.0, rank.ended(nbytes=nbytes))
    return rank


def test_beyond_a_few_who_asks_is_referred_to_those_who_were_served_in_turn():
    rank = made(0, fan_out=2)
    assert rank.tell(1.0, fetch(2, 0, 0), fetch(3, 0, 0)) == [
        "serve 0 to 2 on request_id 0",
        "serve 0 to 3 on request_id 0",
    ]
    asked = [fetch(number, 5, 0) for number in (4, 5, 6)]
    assert rank.tell(2.0, *asked) == [
        "to 4: ask 2 on request_id 5",
        "to 5: ask 3 on request_id 5",
        "to 6: ask 2 on request_id 5",
    ]


def test_small_and_encoded_values_are_sent_to_any_rank_that_asks():
    rank = made(0, nbytes=REFERRED_NBYTES - 1, fan_out=1)
    other = made(0, fan_out=1)
    for number in (2, 3, 4):
        assert rank.tell(1.0, fetch(number, 0, 0)) == [f"serve 0 to {number} on request_id 0"]
        assert other.tell(1.0, fetch(number, 0, 0, codec="c")) == [f"serve 0 to {number} on request_id 0 by c"]


def test_copies_of_all_kinds_are_as_large_as_their_originals():
    rank = Dialogue(fan_out=1)
    rank.tell(0.0, dispatch(task(1, value(0, 9))))
    rank.tell(1.0, received(9, VALUE, 0, (PICKLED, bytes(MIB))))
    assert rank.worker.held == {0: MIB}
    assert rank.tell(1.0, fetch(2, 0, 0), fetch(3, 0, 0))[1] == "to 3: ask 2 on request_id 0"


def test_who_lost_what_it_took_is_served_again_and_so_is_who_insists():
    rank = made(0, fan_out=1)
    rank.tell(1.0, fetch(2, 0, 0))
    assert rank.tell(2.0, fetch(2, 1, 0)) == ["serve 0 to 2 on request_id 1"]
    assert rank.tell(3.0, fetch(3, 7, 0, via=INSIST)) == ["serve 0 to 3 on request_id 7"]
    assert rank.tell(4.0, fetch(4, 0, 0)) == ["to 4: ask 3 on request_id 0"], "who came last may have it still"


def test_nobody_is_referred_to_a_lost_rank():
    rank = made(0, fan_out=1)
    rank.tell(1.0, fetch(2, 0, 0))
    assert rank.tell(2.0, lost(2), fetch(3, 0, 0)) == ["serve 0 to 3 on request_id 0"]


def test_a_rank_that_waits_itself_notes_who_was_referred_to_it_and_serves_them_when_it_can():
    rank = Dialogue(fan_out=2)
    rank.tell(0.0, dispatch(task(1, value(0, 9))))
    asked = [fetch(number, 3, 0, via=9) for number in (2, 3, 4)]
    assert rank.tell(1.0, *asked) == ["to 4: ask 2 on request_id 3"]
    assert rank.tell(2.0, arrives(9, 0, nbytes=MIB)) == [
        "put 0",
        "serve 0 to 2 on request_id 3",
        "serve 0 to 3 on request_id 3",
        "call 1#1 on slot 0",
    ]
    assert rank.tell(2.01, fetch(5, 3, 0)) == ["to 5: ask 3 on request_id 3"]


def test_a_rank_that_waits_itself_turns_away_whom_its_own_source_did_not_refer_to_it():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(1, value(0, 9))))
    asked = [fetch(2, 3, 0), fetch(3, 3, 0, via=8), fetch(4, 3, 0, via=INSIST)]
    assert rank.tell(1.0, *asked) == [f"to {number}: absent on request_id 3" for number in (2, 3, 4)]


@pytest.mark.parametrize("why", [absent(9, 0), lost(9)])
def test_who_waits_looks_elsewhere_when_the_source_of_what_it_waits_for_fails(why):
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(1, value(0, 9, 8))))
    rank.tell(1.0, fetch(2, 3, 0, via=9))
    assert rank.tell(2.0, why) == ["to 2: absent on request_id 3", "to 8: fetch 0 on request_id 1"]
    assert rank.tell(3.0, arrives(8, 1)) == ["put 0", "call 1#1 on slot 0"]


def test_a_referral_is_followed_and_who_gave_it_is_asked_again_if_it_comes_to_nothing():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(1, value(0, 9, 8))))
    assert rank.tell(1.0, refer(9, 0, 5)) == ["to 5: fetch 0 on request_id 1, referred by 9"]
    assert rank.tell(1.0, refer(5, 1, 6)) == ["to 6: fetch 0 on request_id 2, referred by 5"]
    assert rank.tell(2.0, absent(6, 2)) == ["to 9: fetch 0 on request_id 3"]
    assert rank.tell(2.0, refer(9, 3, 7)) == ["to 7: fetch 0 on request_id 4, referred by 9"]
    assert rank.tell(3.0, lost(7)) == ["to 9: fetch 0 on request_id 5, insisting"]
    assert rank.tell(4.0, absent(9, 5)) == ["to 8: fetch 0 on request_id 6, insisting"]
    assert rank.tell(5.0, absent(8, 6)) == ["to 0: unfetched for 1#1: 0 asked of [9, 8]"]


def test_a_rank_known_to_be_lost_is_not_asked_though_another_refers_to_it():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(1, value(0, 9))), lost(5))
    assert rank.tell(1.0, refer(9, 0, 5)) == ["to 9: fetch 0 on request_id 1"]
    rank.tell(2.0, fetch(5, 3, 77))
    assert rank.tell(3.0, refer(9, 1, 5)) == ["to 5: fetch 0 on request_id 2, referred by 9"], "it is back"


def test_referrals_have_an_end():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(1, value(0, 9))))
    for request_id in range(MAX_HOPS):
        assert rank.tell(1.0, refer(9 + request_id, request_id, 10 + request_id))[0].startswith(
            f"to {10 + request_id}: fetch 0"
        )
    assert rank.tell(1.0, refer(9 + MAX_HOPS, MAX_HOPS, 7)) == [f"to 9: fetch 0 on request_id {MAX_HOPS + 1}"]


def test_a_rank_referred_to_that_does_not_answer_is_passed_over_and_the_first_answer_counts():
    for first, second in (((5, 1), (9, 2)), ((9, 2), (5, 1))):
        rank = Dialogue()
        rank.tell(0.0, dispatch(task(1, value(0, 9))))
        rank.tell(0.0, refer(9, 0, 5, nbytes=20 * MIB))
        assert 2.0 < rank.worker.next_wakeup() < 2.1
        assert rank.tell(2.0) == []
        assert rank.tell(2.1) == ["to 9: fetch 0 on request_id 2, insisting"]
        assert rank.tell(3.0, arrives(*first)) == ["put 0", "call 1#1 on slot 0"]
        assert rank.tell(3.01, arrives(*second), refer(*second, 6), absent(*second)) == []


# -- ranks lost -----------------------------------------------------------------------------------------


def test_what_a_lost_rank_was_asked_for_is_asked_of_the_next_holder():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(1, value(0, 2, 3, 4))))
    assert rank.tell(1.0, lost(3)) == []
    assert rank.tell(2.0, lost(2)) == ["to 4: fetch 0 on request_id 1"]
    assert rank.tell(3.0, arrives(2, 0)) == [], "an answer the lost rank sent before it was lost"
    assert rank.tell(4.0, arrives(4, 1)) == ["put 0", "call 1#1 on slot 0"]


def test_what_only_a_lost_rank_held_is_told_to_rank_0():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(1, value(0, 2))))
    assert rank.tell(1.0, lost(2)) == ["to 0: unfetched for 1#1: 0 asked of [2]"]


# -- recalls --------------------------------------------------------------------------------------------


def test_only_what_has_not_started_is_returned():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0), task(1), task(2), task(3, value(9, 2))))
    assert rank.tell(0.01, recall((0, 1), (1, 1), (2, 9), (3, 1), (8, 1))) == ["to 0: returned 1#1 3#1"]
    assert rank.tell(0.02, recall((0, 1))) == []
    assert rank.tell(0.03, rank.ended()) == ["call 2#1 on slot 0"]


def test_an_input_that_arrives_for_a_recalled_task_starts_nothing():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(1, value(0, 2))))
    assert rank.tell(1.0, recall((1, 1))) == ["to 0: returned 1#1"]
    assert rank.tell(2.0, arrives(2, 0)) == ["put 0"]
    assert rank.is_idle


# -- time -----------------------------------------------------------------------------------------------


def test_a_call_that_takes_too_long_is_killed_and_counts_as_timed_out():
    rank = Dialogue()
    rank.tell(1.0, dispatch(task(0, timeout_s=0.05)))
    assert rank.worker.next_wakeup() == pytest.approx(1.05)
    assert rank.tell(1.049) == []
    assert rank.tell(1.0501) == ["kill slot 0"]
    assert rank.tell(1.06) == []
    assert rank.tell(1.07, rank.ended(status=DIED)) == [f"to 0: finished 0#1 timed out ({TIMEOUT})"]


def test_a_call_that_ends_just_before_it_is_killed_is_no_time_out():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0, timeout_s=0.05)))
    assert rank.tell(0.06) == ["kill slot 0"]
    assert rank.tell(0.06, rank.ended()) == ["to 0: finished 0#1 ok with its value"]


def test_the_time_of_a_call_begins_when_it_does():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0), task(1, timeout_s=0.05)))
    rank.tell(1.0, rank.ended())
    assert "kill slot 0" not in rank.tell(1.04)
    assert "kill slot 0" in rank.tell(1.06)


def test_the_time_that_a_child_takes_to_start_is_not_the_call_s():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0, timeout_s=0.05)))
    assert "kill slot 0" in rank.tell(0.06)  # it goes unheard while the child prepares
    assert "kill slot 0" not in rank.tell(5.0, rank.begun())
    assert "kill slot 0" not in rank.tell(5.04)
    assert rank.tell(5.06) == ["kill slot 0"]
    assert rank.tell(5.07, rank.ended(status=DIED)) == [f"to 0: finished 0#1 timed out ({TIMEOUT})"]


def test_a_call_is_reported_once_it_has_run_for_a_tenth_of_a_second():
    rank = Dialogue(slots=2)
    rank.tell(1.0, dispatch(task(0)))
    rank.tell(1.05, dispatch(task(1), slot=1))
    assert rank.worker.next_wakeup() == pytest.approx(1.1)
    assert rank.tell(1.1001) == ["to 0: alive, 0#1 runs since 1"]
    assert rank.worker.next_wakeup() == pytest.approx(1.15)
    assert rank.tell(1.1501) == ["to 0: alive, 1#1 runs since 1.05"]
    assert rank.tell(9.0) == []


def test_a_sign_of_life_goes_out_when_nothing_else_did_for_a_heartbeat():
    rank = Dialogue(heartbeat_s=15.0)
    assert rank.worker.next_wakeup() == 15.0
    assert rank.tell(14.0) == []
    assert rank.tell(15.0) == ["to 0: alive"]
    rank.tell(20.0, dispatch(task(0)))
    assert rank.tell(20.01, rank.ended()) == ["to 0: finished 0#1 ok with its value"]
    assert rank.worker.next_wakeup() == pytest.approx(35.01)
    assert rank.tell(30.0) == []
    assert rank.tell(35.02) == ["to 0: alive"]


def test_an_idle_rank_of_a_run_that_stays_open_gives_ever_fewer_signs_of_life():
    rank, times = Dialogue(heartbeat_s=15.0, stays_open=True), []
    while rank.worker.next_wakeup() < 86_400.0:
        times.append(rank.worker.next_wakeup())
        assert rank.tell(times[-1]) == ["to 0: alive"]
    assert times[:4] == [15.0, 45.0, 105.0, 225.0] and len(times) < 35
    rank.tell(90_000.0, dispatch(task(0)))  # a map begins
    assert rank.worker.next_wakeup() <= 90_015.0


def test_what_is_sent_to_other_ranks_is_no_sign_of_life():
    rank = Dialogue(heartbeat_s=15.0)
    assert rank.tell(14.0, fetch(3, 1, 5)) == ["to 3: absent on request_id 1"]
    assert rank.tell(15.0) == ["to 0: alive"]


# -- what is held ---------------------------------------------------------------------------------------


def holding(*numbers, nbytes=10_000, **options):
    """A rank that has made some large values."""
    rank = Dialogue(**options)
    for number in numbers:
        rank.tell(0.0, dispatch(task(number)))
        assert rank.tell(0.0, rank.ended(nbytes=nbytes))[0] == f"put {number}"
    return rank


def more(rank, number, nbytes=10_000):
    """Make one more value; return what is dropped for it."""
    rank.tell(1.0, dispatch(task(number), slot=1))
    return [line for line in rank.tell(1.0, rank.ended(slot=1, nbytes=nbytes)) if line.startswith("drop")]


def test_values_nobody_needs_are_dropped_under_pressure_only_the_longest_forgotten_first():
    rank = holding(0, 1, 2, slots=2, store_nbytes=40_000)
    assert rank.tell(1.0, forget(2, 1, 77)) == []
    assert more(rank, 3) == []
    assert more(rank, 4) == ["drop 2"]
    assert more(rank, 5, nbytes=20_000) == ["drop 1"]
    assert set(rank.worker.held) == {0, 3, 4, 5}, "what others may need is kept, even beyond the limit"


def test_a_store_that_holds_too_much_drops_a_value_as_soon_as_it_is_forgotten():
    rank = holding(0, 1, store_nbytes=15_000)
    assert rank.tell(1.0, forget(0)) == ["drop 0"]


def test_values_that_queued_work_needs_are_not_dropped():
    rank = holding(0, slots=2, store_nbytes=15_000)
    rank.tell(1.0, dispatch(task(7), task(8, value(0, 1)), task(9, value(0, 1))), forget(0))
    assert more(rank, 1) == []
    rank.tell(2.0, rank.ended())
    rank.tell(2.0, rank.ended())
    assert more(rank, 2) == []
    rank.tell(3.0, rank.ended())
    assert more(rank, 3) == ["drop 0"]


def test_a_few_values_that_no_call_in_the_job_needs_are_kept_and_no_more():
    rank = holding(*range(6), slots=2, cache_nbytes=25_000)
    assert rank.tell(1.0, forget(3, 1)) == []
    assert rank.tell(1.0, forget(1, 5, 0)) == ["drop 3", "drop 1"]
    assert rank.tell(1.0, forget(0, 5)) == [], "no value counts twice"
    assert set(rank.worker.held) == {0, 2, 4, 5}, "what calls may need is not counted"
    assert holding(0, cache_nbytes=0).tell(1.0, forget(0)) == ["drop 0"]


def test_copies_that_later_calls_here_may_need_are_no_part_of_the_cache():
    rank = Dialogue(slots=2, cache_nbytes=0)
    rank.tell(0.0, dispatch(task(1, value(0, 2))))
    rank.tell(0.0, arrives(2, 0, nbytes=15_000))
    assert not any(line.startswith("drop") for line in rank.tell(1.0, rank.ended()))
    assert rank.tell(1.0, forget(0)) == ["drop 0"]


def test_a_value_that_a_call_here_needs_is_dropped_after_it():
    rank = holding(0, slots=2, cache_nbytes=0)
    rank.tell(1.0, dispatch(task(7, value(0, 1))))
    assert rank.tell(1.0, forget(0)) == []
    assert rank.tell(2.0, rank.ended())[0] == "drop 0"


def test_a_value_made_again_is_no_part_of_the_cache_until_it_is_forgotten_again():
    rank = holding(0, 1, slots=2, cache_nbytes=15_000)
    rank.tell(1.0, forget(0), dispatch(task(0, attempt=2)))
    rank.tell(1.0, rank.ended(nbytes=10_000))
    assert rank.tell(2.0, forget(1)) == []
    assert rank.tell(3.0, forget(0)) == ["drop 1"]


def test_a_value_that_was_moved_out_takes_no_memory_of_the_cache():
    rank = holding(0, 1, 2, slots=2, cache_nbytes=15_000)
    rank.tell(1.0, dispatch(task(7), task(8, value(0, 1)), task(9, value(1, 1))))
    assert rank.tell(1.0, pressed(HIGH, 10_001)) == ["spill 2", "spill 1"]
    assert rank.tell(1.0, forget(1)) == [], "a call needs it"
    assert rank.tell(1.0, forget(0)) == [], "one value is in memory"


def test_a_recalled_task_needs_its_inputs_no_more():
    rank = holding(0, slots=2, store_nbytes=15_000)
    rank.tell(1.0, dispatch(task(7), task(8, value(0, 1))), forget(0))
    rank.tell(2.0, recall((8, 1)))
    assert more(rank, 1) == ["drop 0"]


def test_copies_of_other_ranks_values_may_go_once_they_were_used():
    rank = Dialogue(slots=2, store_nbytes=30_000)
    rank.tell(0.0, dispatch(task(1, value(0, 2))))
    assert rank.tell(0.0, arrives(2, 0, nbytes=15_000)) == ["put 0", "call 1#1 on slot 0"]
    assert more(rank, 2) == []
    rank.tell(1.0, rank.ended())
    assert more(rank, 3) == ["drop 0"]


def test_a_value_made_again_is_held_once():
    rank = holding(0, slots=2, store_nbytes=35_000)
    rank.tell(1.0, dispatch(task(0, attempt=2)))
    assert rank.tell(1.0, rank.ended(nbytes=20_000))[:2] == ["drop 0", "put 0"]
    assert rank.worker.held == {0: 20_000}
    rank.tell(1.0, forget(0))
    assert more(rank, 1) == []
    assert more(rank, 2) == ["drop 0"]


def test_a_task_that_was_handed_back_needs_its_other_inputs_no_more():
    rank = Dialogue(slots=2, store_nbytes=30_000)
    commands = rank.tell(0.0, dispatch(task(2, value(0, 1), value(1, 3))))
    assert commands[0] == "to 0: unfetched for 2#1: 0 asked of [1]"
    rank.tell(1.0, arrives(3, 0, nbytes=15_000))
    more(rank, 3, nbytes=20_000)
    assert rank.worker.held == {3: 20_000}


def test_a_value_stays_while_it_is_needed_though_another_took_it_encoded():
    rank = Dialogue(slots=2, store_nbytes=30_000)
    rank.tell(0.0, dispatch(task(7)), dispatch(task(1, value(0, 2, codec="c")), task(8), task(2, value(0, 2))))
    assert rank.tell(0.01, arrives(2, 0), arrives(2, 1, nbytes=15_000)) == ["put 0"]
    assert "call 1#1 on slot 0" in rank.tell(0.02, rank.ended())
    assert "call 8#1 on slot 0" in rank.tell(0.03, rank.ended())
    assert more(rank, 3, nbytes=20_000) == [], "task 2 waits with it"


# -- short of memory ------------------------------------------------------------------------------------


def test_where_memory_is_short_what_nobody_needs_is_dropped_and_then_the_largest_moved_out():
    rank = holding(0, 1, 2, nbytes=10_000, slots=2)
    more(rank, 3, nbytes=30_000)
    rank.tell(1.0, forget(1))
    assert rank.tell(2.0, pressed(HIGH, 10_000)) == ["drop 1"]
    assert rank.tell(3.0, pressed(HIGH, 10_000)) == ["spill 3"]
    assert rank.tell(4.0, pressed(HIGH, 10_001)) == ["spill 0", "spill 2"]
    assert rank.tell(5.0, pressed(HIGH, 10_000)) == [], "nothing is left in memory"
    assert set(rank.worker.held) == {0, 2, 3}


def test_a_value_that_was_moved_out_is_served_and_used_as_before():
    rank = holding(0, slots=2)
    rank.tell(1.0, pressed(HIGH, 1))
    assert rank.tell(2.0, fetch(2, 5, 0)) == ["serve 0 to 2 on request_id 5"]
    assert rank.tell(3.0, dispatch(task(7, value(0, 1)))) == ["call 7#1 on slot 0"]
    assert rank.tell(3.01, rank.missing(0))[0] == "drop 0", "its file was missing"


def test_what_running_calls_and_the_next_ones_want_stays_in_memory_and_the_last_wanted_goes_first():
    rank = holding(0, 1, 2, 3, 4, slots=2)
    works = [task(10 + number, value(number, 1)) for number in range(4)]
    assert rank.tell(1.0, dispatch(*works)) == ["call 10#1 on slot 0"]
    assert rank.tell(1.01, pressed(HIGH, 10**9)) == ["spill 4", "spill 3", "spill 2"]
    assert rank.tell(1.02, pressed(HIGH, 10**9)) == []
    assert "spill 0" in rank.tell(1.03, rank.ended(), pressed(HIGH, 10**9))


def test_a_value_that_was_moved_out_goes_as_soon_as_it_is_forgotten():
    rank = holding(0, 1, slots=2)
    rank.tell(1.0, pressed(HIGH, 1))
    assert rank.tell(2.0, forget(0, 1)) == ["drop 0"]
    assert rank.worker.held.keys() == {1}


def test_a_value_may_be_dropped_in_the_turn_in_which_it_is_moved_out():
    rank = holding(0, nbytes=10_000, slots=2)
    commands = rank.worker.handle([pressed(HIGH, 1), forget(0)], 1.0)
    assert commands == [Spill(0, 10_000), Drop(0)], "the size goes with it: by then the machine has forgotten it"


def test_what_was_moved_out_takes_no_room_in_the_store():
    rank = holding(0, 1, slots=2, store_nbytes=25_000)
    rank.tell(1.0, forget(0))
    rank.tell(1.0, pressed(HIGH, 10_001))
    assert rank.worker.spilled == {1}
    more(rank, 2)
    rank.tell(2.0, forget(2))
    assert more(rank, 3) == []
    assert more(rank, 4) == ["drop 2"]


def test_a_value_made_again_is_in_memory():
    rank = holding(0, slots=2)
    rank.tell(1.0, pressed(HIGH, 1), dispatch(task(0, attempt=2)))
    assert rank.tell(1.0, rank.ended(nbytes=20_000))[:2] == ["drop 0", "put 0"]
    assert rank.worker.spilled == set()
    assert rank.tell(2.0, pressed(HIGH, 1)) == ["spill 0"]


def test_a_portion_is_moved_out_before_memory_is_measured_again():
    rank = holding(*range(4), nbytes=PORTION_NBYTES // 2, slots=2)
    assert rank.tell(1.0, pressed(HIGH, 10**12)) == ["spill 0", "spill 1"]
    rank = holding(*range(PORTION_COUNT + 1), slots=2)
    assert len(rank.tell(1.0, pressed(HIGH, 10**12))) == PORTION_COUNT


def test_where_nothing_can_be_moved_out_nothing_is():
    rank = holding(0, 1, slots=2)
    rank.tell(1.0, forget(0))
    assert rank.tell(2.0, pressed(HIGH, 10**9, can_spill=False)) == ["drop 0"]


def test_rank_0_is_told_once_when_memory_is_critical_and_once_when_it_is_not_any_more():
    rank = Dialogue()
    assert rank.tell(0.0, pressed(HIGH)) == []
    assert rank.tell(1.0, pressed(CRITICAL)) == ["to 0: short of memory: so much is in use"]
    assert rank.tell(2.0, pressed(CRITICAL)) == []
    assert rank.tell(3.0, pressed(HIGH)) == ["to 0: not short of memory: so much is in use"]
    assert rank.tell(4.0, pressed(NORMAL)) == []
    rank.tell(5.0, stop())
    assert rank.tell(6.0, pressed(CRITICAL)) == [], "the run is over"


# -- the end --------------------------------------------------------------------------------------------


def test_a_stop_is_acknowledged_and_nothing_is_done_after_it():
    rank = Dialogue(heartbeat_s=15.0)
    rank.tell(0.0, dispatch(task(0)))
    assert rank.tell(0.05, stop("results")) == ["to 0: bye", "leave with results"]
    assert rank.worker.is_over
    assert rank.tell(0.06, dispatch(task(1)), fetch(3, 1, 0), stop()) == []


def test_messages_of_another_run_are_dropped():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0), task(1)))
    assert rank.tell(0.01, received(0, RETRACT, [(1, 1)], run=6), received(0, STOP, None, run=8)) == []
    assert not rank.worker.is_over


# -- what was sent ahead of its input -------------------------------------------------------------------


def test_a_task_waits_for_a_value_that_is_made_here_and_takes_it_without_a_message():
    rank = Dialogue()
    assert rank.tell(0.0, dispatch(task(0), task(1, value(0, 1)), task(2, value(1, 1)))) == ["call 0#1 on slot 0"]
    assert rank.tell(0.0001, rank.ended()) == ["call 1#1 on slot 0"]
    assert rank.calls[0].fetched[0, None] == ((PLAIN, None), -1)
    assert rank.tell(0.0002, rank.ended(nbytes=LARGE)) == ["put 1", "call 2#1 on slot 0"]
    assert not rank.calls[0].fetched, "it is in the store"
    assert rank.tell(0.0003, rank.ended()) == [
        f"to 0: finished 0#1 ok with its value, 1#1 ok holding {LARGE}, 2#1 ok with its value"
    ]


def test_a_task_sent_ahead_that_comes_after_the_end_of_its_input_takes_the_value_all_the_same():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0)))
    rank.tell(1.0, rank.ended())
    assert rank.tell(2.0, dispatch(task(1, value(0, 1)))) == ["call 1#1 on slot 0"]
    assert rank.calls[0].fetched[0, None] == ((PLAIN, None), -1)


def test_a_task_sent_ahead_of_what_was_never_here_is_handed_back():
    rank = Dialogue()
    assert rank.tell(0.0, dispatch(task(1, value(0, 1)), task(2, value(1, 1)))) == [
        "to 0: unfetched for 1#1: 0 asked of [1]",
        "to 0: unfetched for 2#1: 1 asked of [1]",
    ]


def test_what_follows_a_failed_call_goes_back_once_rank_0_was_told_of_the_failure():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0), task(1, value(0, 1)), task(2, value(1, 1)), task(3)))
    assert rank.tell(1.0, rank.ended(status=RAISED)) == [
        "to 0: finished 0#1 raised (raised)",
        "to 0: returned 1#1 2#1",
        "call 3#1 on slot 0",
    ]


def test_what_is_recalled_takes_what_follows_it_along():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0), task(1), task(2, value(1, 1)), task(3, value(2, 1))))
    assert rank.tell(0.01, recall((1, 1))) == ["to 0: returned 1#1 2#1 3#1"]
    rank.tell(0.02, dispatch(task(1, attempt=2), task(2, value(1, 1), attempt=2)))
    assert "to 0: returned 1#2 2#2" in rank.tell(3.0, recall((1, 2), (2, 2)))


def test_a_long_chain_comes_back_whole():
    rank = Dialogue()
    chain = [task(number, value(number - 1, 1)) for number in range(2, 2000)]
    rank.tell(0.0, dispatch(task(0), task(1), *chain))
    (line,) = rank.tell(0.01, recall((1, 1)))
    assert line.startswith("to 0: returned 1#1 2#1") and line.endswith("1999#1")
    assert rank.tell(2.0, rank.ended()) == ["to 0: finished 0#1 ok with its value"]
    assert rank.is_idle


def test_the_second_attempt_of_what_is_here_is_what_followers_wait_for():
    rank = Dialogue(slots=2)
    rank.tell(0.0, dispatch(task(0)))
    rank.tell(1.0, dispatch(task(0, attempt=2), task(1, value(0, 1)), slot=1))
    assert "call 1#1 on slot 1" not in rank.tell(2.0, dispatch(task(0)))
    lines = rank.tell(3.0, rank.ended(slot=1))
    assert "call 1#1 on slot 1" in lines


# -- calls ahead of their turn --------------------------------------------------------------------------


def ahead(rank, room=9, suits=lambda work, before: True):
    """Send ahead all that may be; return which."""
    return [work.task for work in rank.worker.slots.prefill(0, room, suits)]


def test_what_has_its_inputs_may_be_sent_ahead_and_runs_first():
    rank = Dialogue()
    assert ahead(rank) == [], "nothing runs"
    rank.tell(0.0, dispatch(task(0), task(1, value(9, 2)), task(2), task(3, sent(8))))
    assert ahead(rank) == [2, 3]
    rank.tell(1.0, arrives(2, 0))
    assert ahead(rank) == [1]
    for time, number in (2.0, 2), (3.0, 3), (4.0, 1):
        assert f"call {number}#1 on slot 0" in rank.tell(time, rank.ended())


def test_what_waits_for_the_value_of_the_call_before_it_alone_may_be_sent_ahead():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0), task(1, value(0, 1)), task(2, value(1, 1)), task(3, value(0, 1)), task(4)))
    assert ahead(rank) == [1, 2, 4], "3 would come behind 2"
    assert rank.tell(1.0, rank.ended())[:1] == ["call 1#1 on slot 0"]
    assert ahead(rank) == [3], "the value that it waited for is there"


@pytest.mark.parametrize("flags", [KEEP_REMOTE, 0])
def test_a_value_that_must_stay_is_waited_for(flags):
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0, flags=flags), task(1, value(0, 1))))
    assert ahead(rank) == ([] if flags else [1])


def test_nothing_is_sent_ahead_past_what_cannot_be():
    rank = Dialogue()
    rank.tell(0.0, dispatch(*[task(number) for number in range(5)]))
    assert ahead(rank, suits=lambda work, before: (before.task, work.task) != (1, 2)) == [1]
    assert ahead(rank) == [2, 3, 4]


def test_what_was_sent_ahead_is_not_given_back():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0), task(1), task(2), task(3)))
    assert ahead(rank, room=1) == [1]
    assert rank.tell(0.05, recall((1, 1), (2, 1))) == ["to 0: returned 2#1"]


def test_what_waits_for_a_value_that_never_comes_is_given_back_even_if_it_was_sent_ahead():
    rank = Dialogue()
    rank.tell(0.0, dispatch(task(0), task(1, value(0, 1)), task(2)))
    assert ahead(rank) == [1, 2]
    commands = rank.tell(1.0, rank.ended(status=RAISED))
    assert commands == ["to 0: finished 0#1 raised (raised)", "to 0: returned 1#1", "call 2#1 on slot 0"]
