"""Handlers and the events they are attached to."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from handoff_mpi import telemetry
from handoff_mpi.errors import UsageError
from handoff_mpi.telemetry import FUNCTION_EXCEPTION, FUNCTION_START, FUNCTION_STOP, RANK_LOST, handlers


class Recorder:
    """A handler that keeps its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[telemetry.Event, dict[str, Any], dict[str, Any], Any]] = []

    def __call__(
        self, event: telemetry.Event, measurements: dict[str, Any], metadata: dict[str, Any], config: Any
    ) -> None:
        self.calls.append((event, measurements, metadata, config))


def fail(event: telemetry.Event, measurements: Any, metadata: Any, config: Any) -> None:
    raise KeyError("no such thing")


def ignore(event: telemetry.Event, measurements: Any, metadata: Any, config: Any) -> None:
    pass


@pytest.fixture(autouse=True)
def _nothing_attached() -> Iterator[None]:
    assert telemetry.list_handlers() == []
    yield
    for handler_id in {entry.handler_id for entry in telemetry.list_handlers()}:
        telemetry.detach(handler_id)
    # Both tables must agree that nothing is left.
    assert not handlers._handlers.of_id
    assert not any(telemetry.has_handlers(event) for event in telemetry.EVENTS)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns in the middle of everything."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def attached_ids(event: tuple[str, ...] = ()) -> list[str]:
    return [entry.handler_id for entry in telemetry.list_handlers(event)]


def test_the_guides_monitor_is_told_of_function_starts() -> None:
    monitor = Recorder()
    telemetry.attach("monitor", ("handoff", "execution", "function", "start"), monitor, {"to": "log"})
    telemetry.execute(FUNCTION_START, {"system_time": 1.5}, {"function_id": "fit", "node": 3})
    assert monitor.calls == [
        (
            ("handoff", "execution", "function", "start"),
            {"system_time": 1.5},
            {"function_id": "fit", "node": 3},
            {"to": "log"},
        )
    ]


def test_config_is_handed_over_as_it_is_and_is_none_by_default() -> None:
    with_config, without = Recorder(), Recorder()
    config: list[int] = []
    telemetry.attach("with", RANK_LOST, with_config, config)
    telemetry.attach("without", RANK_LOST, without)
    telemetry.execute(RANK_LOST, {}, {})
    assert with_config.calls[0][3] is config
    assert without.calls[0][3] is None


def test_a_handler_hears_its_own_events_only() -> None:
    recorder = Recorder()
    telemetry.attach("r", FUNCTION_STOP, recorder)
    telemetry.execute(FUNCTION_START, {}, {})
    telemetry.execute(FUNCTION_EXCEPTION, {}, {})
    assert recorder.calls == []


def test_an_event_may_be_named_by_a_list() -> None:
    recorder = Recorder()
    telemetry.attach("r", ["handoff", "rank", "lost"], recorder)
    telemetry.execute(RANK_LOST, {}, {})
    assert recorder.calls[0][0] == RANK_LOST


def test_attach_many_hears_each_event_once() -> None:
    recorder = Recorder()
    telemetry.attach_many("r", [FUNCTION_START, FUNCTION_STOP, FUNCTION_START], recorder)
    telemetry.execute(FUNCTION_STOP, {"duration": 0.1}, {})
    telemetry.execute(FUNCTION_START, {}, {})
    assert [call[0] for call in recorder.calls] == [FUNCTION_STOP, FUNCTION_START]


def test_handlers_are_called_in_the_order_of_attachment() -> None:
    called: list[str] = []
    for name in ("z", "a", "m"):
        telemetry.attach(name, FUNCTION_START, lambda *_, name=name: called.append(name))
    telemetry.execute(FUNCTION_START, {}, {})
    assert called == ["z", "a", "m"]


def test_detach_takes_a_handler_off_all_its_events_and_frees_its_name() -> None:
    recorder = Recorder()
    telemetry.attach_many("r", [FUNCTION_START, FUNCTION_STOP], recorder)
    telemetry.attach("stays", FUNCTION_STOP, ignore)
    telemetry.detach("r")
    telemetry.execute(FUNCTION_START, {}, {})
    telemetry.execute(FUNCTION_STOP, {}, {})
    assert recorder.calls == []
    assert attached_ids() == ["stays"]
    telemetry.attach("r", RANK_LOST, recorder)
    assert attached_ids(RANK_LOST) == ["r"]


def test_has_handlers_follows_attach_and_detach() -> None:
    assert not telemetry.has_handlers(FUNCTION_START)
    telemetry.attach("one", FUNCTION_START, ignore)
    telemetry.attach("two", FUNCTION_START, ignore)
    telemetry.detach("one")
    assert telemetry.has_handlers(FUNCTION_START)
    assert not telemetry.has_handlers(FUNCTION_STOP)
    telemetry.detach("two")
    assert not telemetry.has_handlers(FUNCTION_START)


def test_list_handlers_by_prefix() -> None:
    telemetry.attach_many("a", [RANK_LOST, FUNCTION_STOP], ignore, 7)
    telemetry.attach("b", FUNCTION_STOP, fail)
    listed = [(entry.handler_id, entry.event, entry.handler, entry.config) for entry in telemetry.list_handlers()]
    assert listed == [
        ("a", FUNCTION_STOP, ignore, 7),
        ("b", FUNCTION_STOP, fail, None),
        ("a", RANK_LOST, ignore, 7),
    ]
    assert attached_ids(("handoff", "execution")) == ["a", "b"]
    assert [entry.event for entry in telemetry.list_handlers(["handoff", "rank"])] == [RANK_LOST]
    assert attached_ids(("handoff", "transfer")) == []
    assert attached_ids((*RANK_LOST, "more")) == []


@pytest.mark.parametrize(
    ("event", "nearest"),
    [
        (("handoff", "execution", "function", "started"), FUNCTION_START),
        (("handoff", "execution", "functon", "stop"), FUNCTION_STOP),
        (("handoff", "ranks", "lost"), RANK_LOST),
        ("handoff.rank.lost", RANK_LOST),
        (("Handoff", "transfer"), telemetry.TRANSFER_STOP),
    ],
)
def test_an_unknown_event_names_the_nearest_one(event: Any, nearest: telemetry.Event) -> None:
    with pytest.raises(UsageError) as caught:
        telemetry.attach("r", event, ignore)
    assert repr(nearest) in str(caught.value)
    assert str(event) in str(caught.value)
    assert attached_ids() == []


def test_an_unknown_event_is_not_emitted_or_asked_for_either() -> None:
    typo = ("handoff", "rank", "lots")
    for call in (lambda: telemetry.execute(typo, {}, {}), lambda: telemetry.has_handlers(typo)):
        with pytest.raises(UsageError, match="lost"):
            call()


def test_attach_many_attaches_all_or_none() -> None:
    with pytest.raises(UsageError):
        telemetry.attach_many("r", [FUNCTION_START, ("handoff", "nothing")], ignore)
    assert attached_ids() == []
    telemetry.attach("r", FUNCTION_STOP, ignore)
    with pytest.raises(UsageError):
        telemetry.attach_many("r", [FUNCTION_START, RANK_LOST], ignore)
    assert [(entry.handler_id, entry.event) for entry in telemetry.list_handlers()] == [("r", FUNCTION_STOP)]


def test_a_name_taken_already_is_refused_and_the_first_stays() -> None:
    first = Recorder()
    telemetry.attach("monitor", FUNCTION_START, first)
    with pytest.raises(UsageError, match="'monitor' is already attached"):
        telemetry.attach("monitor", RANK_LOST, ignore)
    telemetry.execute(FUNCTION_START, {}, {})
    assert len(first.calls) == 1


def test_detaching_an_unknown_name_says_which_was_meant() -> None:
    telemetry.attach("monitor", FUNCTION_START, ignore)
    with pytest.raises(UsageError, match=r"'monitr' is attached; did you mean 'monitor'\?"):
        telemetry.detach("monitr")
    telemetry.detach("monitor")
    with pytest.raises(UsageError, match=r"no telemetry handler 'monitor' is attached$"):
        telemetry.detach("monitor")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("r", FUNCTION_START, None), "cannot be called"),
        ((3, FUNCTION_START, ignore), "named by a non-empty string"),
        (("", FUNCTION_START, ignore), "named by a non-empty string"),
    ],
)
def test_what_cannot_be_attached_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        telemetry.attach(*arguments)
    with pytest.raises(UsageError, match="no event"):
        telemetry.attach_many("r", [], ignore)


def test_a_handler_that_raises_is_detached_with_a_warning_and_the_others_are_told() -> None:
    before, after = Recorder(), Recorder()
    telemetry.attach("before", FUNCTION_START, before)
    telemetry.attach_many("bad", [FUNCTION_START, FUNCTION_STOP], fail)
    telemetry.attach("after", FUNCTION_START, after)
    with pytest.warns(RuntimeWarning) as caught:
        telemetry.execute(FUNCTION_START, {}, {})
    telemetry.execute(FUNCTION_START, {}, {})
    telemetry.execute(FUNCTION_STOP, {}, {})
    assert len(before.calls) == len(after.calls) == 2
    assert attached_ids() == ["before", "after"]
    (warning,) = caught
    for part in ("'bad'", repr(FUNCTION_START), "KeyError: 'no such thing'", "test_handlers.py"):
        assert part in str(warning.message)
    assert warning.filename == __file__


def test_a_run_goes_on_even_where_warnings_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    after = Recorder()
    telemetry.attach("bad", FUNCTION_START, fail)
    telemetry.attach("after", FUNCTION_START, after)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        telemetry.execute(FUNCTION_START, {}, {})
    assert len(after.calls) == 1
    assert "'bad' is detached" in capsys.readouterr().err


def test_an_exception_that_cannot_be_shown_is_reported_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def handler(*_: Any) -> None:
        raise Mute

    telemetry.attach("bad", FUNCTION_START, handler)
    with pytest.warns(RuntimeWarning, match=r"'bad' is detached.*Mute"):
        telemetry.execute(FUNCTION_START, {}, {})


def test_the_place_that_is_named_is_in_the_users_code() -> None:
    """As where ``sys.exit`` was replaced by a function of this package."""
    code = compile("def leave():\n    raise SystemExit(3)", "wrapper.py", "exec")
    scope: dict[str, Any] = {"__name__": "handoff_mpi.wrapper"}
    exec(code, scope)
    telemetry.attach("leaves", FUNCTION_START, lambda *_: scope["leave"]())
    with pytest.warns(RuntimeWarning, match=r"it raised SystemExit: 3 \(.*test_handlers.py:\d+\)"):
        telemetry.execute(FUNCTION_START, {}, {})


class Handler:
    def __call__(self, event: Any, measurements: Any, metadata: Any, config: Any) -> None: ...


async def handle_some_time(event: Any, measurements: Any, metadata: Any, config: Any) -> None: ...


def handle_in_parts(event: Any, measurements: Any, metadata: Any, config: Any) -> Any:
    yield event


WRONG = [
    (lambda event: None, r"handler cannot be called as handler\(event, measurements, metadata, config\)"),
    (lambda event, measurements, metadata, *, config: None, "handler cannot be called as"),
    (Handler, "it is a class: give an object of it"),
    (handle_some_time, "handler is async, so that calling it would do nothing"),
    (handle_in_parts, "handler is a generator, so that calling it would do nothing"),
    (7, "cannot be called: 7"),
]


@pytest.mark.parametrize(("handler", "says"), WRONG)
def test_a_handler_of_the_wrong_shape_is_refused_at_once(handler: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        telemetry.attach("bad", FUNCTION_START, handler)
    assert not telemetry.has_handlers(FUNCTION_START)


@pytest.mark.parametrize("handler", [Handler(), Handler().__call__, lambda *all: None, print])
def test_any_callable_of_four_arguments_is_a_handler(handler: Any) -> None:
    telemetry.attach("good", FUNCTION_START, handler)
    assert telemetry.has_handlers(FUNCTION_START)


def test_an_interrupt_in_a_handler_is_not_swallowed() -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.default_int_handler)  # an interrupt is one where Python's own handler raises it
    telemetry.attach("r", FUNCTION_START, interrupted)
    with pytest.raises(KeyboardInterrupt):
        telemetry.execute(FUNCTION_START, {}, {})


def test_a_handler_may_detach_itself() -> None:
    calls: list[int] = []

    def once(*_: Any) -> None:
        calls.append(1)
        telemetry.detach("once")

    after = Recorder()
    telemetry.attach("once", FUNCTION_START, once)
    telemetry.attach("after", FUNCTION_START, after)
    for _ in range(3):
        telemetry.execute(FUNCTION_START, {}, {})
    assert len(calls) == 1
    assert len(after.calls) == 3


def test_what_a_handler_attaches_and_detaches_holds_from_the_next_event_on() -> None:
    late, victim = Recorder(), Recorder()

    def meddle(*_: Any) -> None:
        telemetry.attach("late", FUNCTION_START, late)
        telemetry.detach("victim")
        telemetry.detach("meddler")

    telemetry.attach("meddler", FUNCTION_START, meddle)
    telemetry.attach("victim", FUNCTION_START, victim)
    telemetry.execute(FUNCTION_START, {}, {})
    assert (len(late.calls), len(victim.calls)) == (0, 1)
    telemetry.execute(FUNCTION_START, {}, {})
    assert (len(late.calls), len(victim.calls)) == (1, 1)


def test_a_handler_that_gave_its_name_away_and_raises_does_not_take_its_heir_along() -> None:
    heir = Recorder()

    def abdicate(*_: Any) -> None:
        telemetry.detach("crown")
        telemetry.attach("crown", FUNCTION_START, heir)
        raise ValueError

    telemetry.attach("crown", FUNCTION_START, abdicate)
    with pytest.warns(RuntimeWarning, match="'crown'"):
        telemetry.execute(FUNCTION_START, {}, {})
    telemetry.execute(FUNCTION_START, {}, {})
    assert len(heir.calls) == 1


def test_a_handler_may_emit() -> None:
    recorder = Recorder()
    telemetry.attach("r", RANK_LOST, recorder)
    telemetry.attach("chain", FUNCTION_START, lambda *_: telemetry.execute(RANK_LOST, {}, {}))
    telemetry.execute(FUNCTION_START, {}, {})
    assert [call[0] for call in recorder.calls] == [RANK_LOST]


def test_what_a_handler_changes_no_one_else_sees() -> None:
    def spoil(event: Any, measurements: dict[str, Any], metadata: dict[str, Any], config: Any) -> None:
        measurements.clear()
        metadata["node"] = -1

    recorder = Recorder()
    telemetry.attach("spoil", FUNCTION_STOP, spoil)
    telemetry.attach("r", FUNCTION_STOP, recorder)
    measurements, metadata = {"duration": 1.0}, {"node": 2}
    telemetry.execute(FUNCTION_STOP, measurements, metadata)
    assert recorder.calls[0][1:3] == ({"duration": 1.0}, {"node": 2})
    assert (measurements, metadata) == ({"duration": 1.0}, {"node": 2})


def test_threads_attach_emit_and_detach_at_once(hasty_threads: None) -> None:
    errors: list[BaseException] = []
    steady, rounds, start = Recorder(), 300, threading.Barrier(8)
    telemetry.attach("steady", FUNCTION_START, steady)

    def work(number: int) -> None:
        try:
            start.wait(timeout=30)
            for turn in range(rounds):
                mine = Recorder()
                telemetry.attach_many(f"{number}", [FUNCTION_START, FUNCTION_STOP], mine, turn)
                telemetry.execute(FUNCTION_START, {"by": number}, {})
                telemetry.detach(f"{number}")
                assert number in [call[1]["by"] for call in mine.calls]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    assert attached_ids() == ["steady"]
    assert len(steady.calls) == 8 * rounds


def test_the_table_is_changed_under_the_lock_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # The race itself is too rare to be waited for.
    class Watched(handlers._Table):
        changes = 0

        def __setitem__(self, event: telemetry.Event, entries: tuple[telemetry.Attached, ...]) -> None:
            assert handlers._handlers.lock.locked()
            Watched.changes += 1
            super().__setitem__(event, entries)

    monkeypatch.setattr(handlers._handlers, "of_event", Watched((event, ()) for event in telemetry.EVENTS))
    telemetry.attach("r", FUNCTION_START, ignore)
    telemetry.detach("r")
    telemetry.attach("bad", FUNCTION_START, fail)
    with pytest.warns(RuntimeWarning, match="'bad'"):
        telemetry.execute(FUNCTION_START, {}, {})
    assert Watched.changes == 4
    assert not handlers._handlers.lock.locked()


def test_a_handler_seen_to_raise_by_two_threads_is_detached_once() -> None:
    both_inside = threading.Barrier(2)

    def handler(*_: Any) -> None:
        both_inside.wait(timeout=30)
        raise ValueError

    telemetry.attach("bad", FUNCTION_START, handler)
    errors: list[BaseException] = []

    def emit() -> None:
        try:
            telemetry.execute(FUNCTION_START, {}, {})
        except BaseException as error:
            errors.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = [threading.Thread(target=emit) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert errors == []
    assert attached_ids() == []


def test_no_lock_is_held_while_a_handler_runs() -> None:
    done = threading.Event()

    def other_thread() -> None:
        telemetry.attach("other", RANK_LOST, ignore)
        done.set()

    def handler(*_: Any) -> None:
        thread = threading.Thread(target=other_thread, daemon=True)
        thread.start()
        assert done.wait(timeout=30)

    telemetry.attach("r", FUNCTION_START, handler)
    telemetry.execute(FUNCTION_START, {}, {})
    assert attached_ids() == ["r", "other"]


def test_events_are_those_promised() -> None:
    promised = {
        ("execution", "function"): ("start", "stop", "exception", "retry", "reassign", "recompute", "skipped"),
        ("execution", "dag"): ("start", "stop"),
        ("rank",): ("joined", "suspect", "returned", "lost"),
        ("rank", "memory"): ("high", "normal"),
        ("rank", "probation"): ("start", "stop"),
        ("host", "probation"): ("start", "stop"),
        ("resource",): ("claimed", "released", "refused", "updated"),
        ("transfer",): ("stop",),
        ("device",): ("withdrawn",),
    }
    events = {("handoff", *room, what) for room, whats in promised.items() for what in whats}
    assert set(telemetry.EVENTS) == events
    assert len(telemetry.EVENTS) == len(events)


def test_the_beginning_of_a_name_stands_for_all_events_that_begin_so() -> None:
    told = []
    telemetry.attach("ranks", ("handoff", "rank"), lambda event, *rest: told.append(event))
    of_ranks = [event for event in telemetry.EVENTS if event[:2] == ("handoff", "rank")]
    assert [each.event for each in telemetry.list_handlers()] == of_ranks
    for event in telemetry.EVENTS:
        telemetry.execute(event, {}, {})
    assert told == of_ranks
    telemetry.detach("ranks")
    telemetry.attach_many("both", [("handoff", "rank"), ("handoff", "rank", "lost"), ("handoff", "transfer")], print)
    assert [each.event for each in telemetry.list_handlers()] == [*of_ranks, telemetry.TRANSFER_STOP]
    telemetry.detach("both")


@pytest.mark.parametrize("name", [(), ("handoff", "ran"), ("rank",), ("handoff", "rank", "lost", "more")])
def test_what_begins_no_event_is_refused(name) -> None:
    with pytest.raises(UsageError, match="there is no telemetry event"):
        telemetry.attach("none", name, print)
