"""A run with every kind of record: inline and kept values, instances of the script's class, failures, retries, skips."""

import os

from handoff_mpi import DAG, Function


class Point:
    def __init__(self, x):
        self.x = x


def point():
    return Point(3)


def large():
    return bytes(20_000)


def error():
    return ValueError("kept as a value")


def fails():
    raise RuntimeError("always")


def flaky():
    if not os.path.exists("tried"):
        open("tried", "w").close()
        raise OSError("first")
    return "second"


def names(*values):
    return [type(value).__name__ for value in values]


def waits(value):
    if not os.path.exists("go"):
        raise SystemError("not yet")
    return value


dag = DAG("kept")
for function in (point, large, error, flaky):
    dag.add_function(Function(function.__name__, (), function, max_retries=2))
dag.add_function(Function("fails", (), fails, max_retries=0))
dag.add_function(Function("skipped", ["fails"], names))
dag.add_function(Function(("names", 1), ["point", "large", "error", "flaky"], names))
dag.add_function(Function("waits", ["point"], waits, max_retries=0))
