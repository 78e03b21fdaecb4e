"""The questions that there are: one module each, that answers by ``ask(setting)`` and has a command line of its own."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import cast

from tests.benchmarks.harness import Answer, Setting


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        name: of its module.
        by_ranks: whether it is asked for each number of ranks; else once, with three ranks where it needs any.
        least_ranks: with fewer it makes no sense.
    """

    name: str
    by_ranks: bool = False
    least_ranks: int = 2

    def ask(self, setting: Setting) -> Answer:
        return cast(Answer, importlib.import_module(f"tests.benchmarks.{self.name}").ask(setting))


QUESTIONS = [
    Question("throughput", by_ranks=True),
    Question("latency", by_ranks=True),
    Question("children", by_ranks=True),
    Question("granularity", by_ranks=True),
    Question("pools"),
    Question("arrays", by_ranks=True),
    Question("array_bounds", by_ranks=True),
    Question("array_chains", by_ranks=True),
    Question("idle", by_ranks=True),
    Question("startup", by_ranks=True),
    Question("handover"),
    Question("bandwidth", by_ranks=True, least_ranks=3),
    Question("functions", by_ranks=True),
    Question("ranks"),
    Question("decisions"),
    Question("leases"),
    Question("journal"),
    Question("value_files", least_ranks=1),
    Question("live_view"),
    Question("recording"),
]
