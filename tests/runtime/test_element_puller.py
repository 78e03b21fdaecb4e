"""A thread pulls elements: never more than a window, nothing that has come is lost, and nobody waits for the thread."""

from __future__ import annotations

import threading
import time

import pytest

from handoff_mpi.runtime.element_puller import ElementPuller


class Pulled:
    """A puller that runs, and what came of it."""

    def __init__(self, iterable, window=10):
        self.rung = threading.Event()
        self.puller = ElementPuller(lambda: iter(iterable), window, self.rung.set)
        self.elements = []
        self.puller.start()

    def take_until(self, condition, ended=0):
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end
            self.rung.wait(0.05)
            self.rung.clear()
            self.elements += self.puller.take(1000)
        return self.elements


def test_at_most_a_window_is_pulled_and_has_not_ended():
    seen = []

    def numbers():
        for number in range(1000):
            seen.append(number)
            yield number

    pulled = Pulled(numbers())
    pulled.take_until(lambda: len(pulled.elements) == 10)
    time.sleep(0.05)
    assert len(seen) == 10
    pulled.puller.allow(7)
    pulled.take_until(lambda: len(pulled.elements) == 17)
    time.sleep(0.05)
    assert len(seen) == 17
    pulled.puller.close()


def test_all_elements_come_in_order():
    pulled = Pulled(range(100_000), window=300)

    def is_all():
        pulled.puller.allow(len(pulled.elements))
        return pulled.puller.is_over and not pulled.puller.take(0) and len(pulled.elements) == 100_000

    assert pulled.take_until(is_all) == [*range(100_000)]


@pytest.mark.parametrize("error", [ValueError("no more"), SystemExit(3), KeyboardInterrupt()])
def test_what_came_before_an_error_is_kept(error):
    def numbers():
        yield from range(5)
        raise error

    pulled = Pulled(numbers())
    pulled.take_until(lambda: pulled.puller.is_over)
    pulled.elements += pulled.puller.take(1000)
    assert pulled.elements == [0, 1, 2, 3, 4]
    assert pulled.puller.error is error


def test_an_element_is_there_before_the_next_one_comes():
    release = threading.Event()

    def numbers():
        yield 1
        release.wait(10)
        yield 2

    pulled = Pulled(numbers())
    assert pulled.take_until(lambda: pulled.elements) == [1]
    assert not pulled.puller.is_over
    release.set()
    assert pulled.take_until(lambda: pulled.puller.is_over and len(pulled.elements) == 2) == [1, 2]


def test_nobody_waits_for_a_thread_that_is_blocked():
    release = threading.Event()

    def numbers():
        release.wait(10)
        yield 1

    pulled = Pulled(numbers())
    pulled.puller.close()
    assert not pulled.elements
    assert not pulled.puller.is_over
    release.set()
