"""Draws the progress of a run for a terminal, from the fields of ``status.json`` alone."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from handoff_mpi.formatting import (
    call_time_text,
    counted,
    duration_text,
    one_line,
    rate_text,
    repeated_texts,
    time_left_text,
)

#: Of the rows of a terminal the view takes this share, and never more than MAX_ROWS.
_ROWS_SHARE = 0.4
MAX_ROWS = 16
MIN_ROWS = 3
_MAX_TROUBLE = 3
_MAX_CHARS = 200
#: Columns that the name of the DAG gets at least.
_MIN_NAME = 8
#: From so many columns on a table has all its columns; a narrower one drops what matters least, in these steps.
_ALL_COLUMNS, _MAX_COLUMNS = 70, 50
#: The column of durations takes so many more with the sum of a name's calls.
_SUM_COLUMNS = 20
#: From so many columns on, hosts stand beside the names of functions, and neither table drops any of its columns.
_WIDE = 2 * _ALL_COLUMNS + 3
_MB_PER_GB = 1000
#: States that functions of a name are counted in besides "done", with their styles. A table has a column for each state
#: that occurs; beyond the usual number of them its bars make room, so many columns of the terminal for each.
_STATES_OF_A_NAME = {"running": "cyan", "failed": "red", "skipped": "red", "waiting": "dim"}
_USUAL_STATES, _STATE_COLUMNS = 2, 11
#: Of a host's fields, those that hold at a moment: nothing of the kind is shown of a run that has ended.
_OF_A_MOMENT = ("busy", "gpus_claimed", "cpu_percent", "memory_used_mb", "gpu_percent")
#: A table of fewer rows spends none on how many are not shown.
_MIN_CUT = 3
#: Rank 0 renews the status every second; a longer silence is shown.
VIEW_SILENCE_S = 15.0

_IN_ASCII = str.maketrans("─…", "-.")

Status = Mapping[str, object]


def rows_for(height: int) -> int:
    """Return how many rows of a terminal with ``height`` rows the view may take."""
    return max(MIN_ROWS, min(MAX_ROWS, int(_ROWS_SHARE * height)))


class Painter:
    """Turns a status into lines for a terminal, with the colours that the environment allows (``TERM``, ``NO_COLOR``).

    Args:
        encoding: of the terminal.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        self._encoding = encoding

    def lines(self, status: Status, now: float, width: int, rows: int, silent_s: float = 0.0) -> list[str]:
        """Return at most ``rows`` lines, none longer than ``width`` columns.

        Args:
            status: the fields of ``status.json``.
            now: seconds since the epoch, by the clock of rank 0.
            width: columns of the terminal.
            rows: how many lines at most, at least MIN_ROWS.
            silent_s: how long ago the status was renewed last, in seconds.
        """
        console = self._console(width)
        with console.capture() as captured:
            for part in view(status, now, width, rows, silent_s):
                console.print(part, no_wrap=True, overflow="ellipsis", crop=True, soft_wrap=False)
        return [self._encodable(line) for line in captured.get().splitlines()[:rows]]

    def _encodable(self, line: str) -> str:
        """Return ``line`` with characters of the terminal's encoding alone."""
        try:
            line.encode(self._encoding)
            return line
        except UnicodeEncodeError:
            return line.translate(_IN_ASCII).encode(self._encoding, "replace").decode(self._encoding)

    def _console(self, width: int) -> Console:
        # Nothing is written to this file: its encoding tells rich which characters it may draw with.
        file = io.TextIOWrapper(io.BytesIO(), encoding=self._encoding)
        return Console(file=file, force_terminal=True, force_jupyter=False, width=width, highlight=False, markup=False)


def view(status: Status, now: float, width: int, rows: int, silent_s: float = 0.0) -> list[RenderableType]:
    """Return the parts of the view from top to bottom, which take at most ``rows`` rows; see :meth:`Painter.lines`."""
    trouble = _trouble(status)[: min(_MAX_TROUBLE, max(0, rows - MIN_ROWS))]
    head: list[RenderableType] = [_title(status, now, width, silent_s), _bar(status), _counts(status), *trouble]
    left = rows - len(head)
    names, hosts, calls = _names(status), _hosts(status), _list(status, "longest")
    if width >= _WIDE:
        beside, below = _share(left, (max(len(names), len(hosts)), len(calls)))
        half = width // 2
        body = _side_by_side(_name_table(names, beside, half), _host_table(status, hosts, beside, half))
        tables = [(body, beside), (_call_table(status, calls, now, below, width), below)]
        return [*head, *(table for table, count in tables if count)]
    of_names, of_hosts, of_calls = _share(left, (len(names), len(hosts), len(calls)))
    tables = [(_name_table(names, of_names, width), of_names), (_host_table(status, hosts, of_hosts, width), of_hosts)]
    tables.append((_call_table(status, calls, now, of_calls, width), of_calls))
    return [*head, *(table for table, count in tables if count)]


def _share(rows: int, wanted: Sequence[int]) -> list[int]:
    """Return how many rows each of several tables gets: one after the other a row, until none is left or wanted."""
    given = [0] * len(wanted)
    while rows > 0 and any(map(int.__lt__, given, wanted)):
        for table, want in enumerate(wanted):
            if given[table] < want and rows > 0:
                given[table] += 1
                rows -= 1
    return given


# -- the head -----------------------------------------------------------------------------------------


def _title(status: Status, now: float, width: int, silent_s: float) -> Text:
    took = duration_text(_number(status.get("duration_s")) or max(0.0, now - _number(status.get("started_s", now))))
    left = time_left_text(status)
    if _has_ended(status):
        left = _short(status.get("status"))
    is_silent = silent_s >= VIEW_SILENCE_S
    if is_silent:
        left = f"no news for {duration_text(silent_s)}"
    told = next((text for text in (f"{took}, {left}", left, took) if len(text) + _MIN_NAME + 8 <= width), "")
    name = _short(status.get("dag_id", ""), max(4, width - len(told) - 8))
    line = "─" * max(1, width - len(told) - len(name) - 8)
    style = "yellow" if is_silent else ""
    return Text.assemble(("── ", "dim"), (name, "bold"), (f" {line} ", "dim"), (told, style), (" ──", "dim"))


def _bar(status: Status) -> Table:
    counts, total = _mapping(status, "counts"), _number(status.get("functions"))
    done, failed, skipped = (_number(counts.get(name)) for name in ("done", "failed", "skipped"))
    share = done / total if total else 0.0
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    if status.get("may_grow"):
        table.add_row("", "total unknown")  # a bar, or a share of what has come so far, would look like progress
        return table
    # 100 % means that all functions are done: what failed or was skipped is missing from it.
    shown = 100 if done >= total else min(99, int(100 * share))
    table.add_row(_progress(done, failed + skipped, total), f"{shown} % done")
    return table


def _progress(done: float, failed: float, total: float) -> ProgressBar:
    """Return a bar of what is done; it is red where more has failed."""
    style = "red" if failed > done else "green"
    return ProgressBar(total=max(1.0, total), completed=done, complete_style=style, finished_style=style)


def _counts(status: Status) -> Text:
    counts = _mapping(status, "counts")
    waiting = _number(counts.get("waiting")) + _number(counts.get("ready"))
    shown: list[tuple[str, float, str]] = [
        ("done", _number(counts.get("done")), "green"),
        ("running", _number(counts.get("running")), "cyan"),
        ("waiting", waiting, ""),
        ("failed", _number(counts.get("failed")), "bold red"),
        ("skipped", _number(counts.get("skipped")), "red"),
    ]
    rate = _number(status.get("rate_per_s"))
    parts = [Text(f"{count:,.0f} {name}", style) for name, count, style in shown if count or name == "done"]
    parts += [Text(rate_text(rate), "dim")] if rate else []
    parts += [Text(each, "yellow") for each in repeated_texts(counts)]
    return Text("  ").join(parts)


def _trouble(status: Status) -> list[Text]:
    """Return a line for each group of failures, lost rank, and place on probation; the newest of each kind first."""
    lines = []
    failures = [each for each in _list(status, "failures") if isinstance(each, Mapping)]
    for group in failures[:1]:
        count, more = _number(group.get("count")), len(failures) - 1
        which = f"{_short(group.get('first'), 40)}{f' and {count - 1:,.0f} more' if count > 1 else ''}"
        others = f" (and {more:,} other kinds of failures)" if more else ""
        lines.append(Text(f"failed: {which}: {_short(group.get('what'))}{others}", "red"))
    lost = _mapping(status, "lost_ranks")
    for rank, reason in list(lost.items())[-1:]:
        others = f" (and {len(lost) - 1:,} more ranks)" if len(lost) > 1 else ""
        lines.append(Text(f"lost: rank {_short(rank, 12)}: {_short(reason)}{others}", "yellow"))
    for place, reason in list(_mapping(status, "probation").items())[-1:]:
        lines.append(Text(f"on probation: {_short(place, 40)}: {_short(reason)}", "yellow"))
    return lines


# -- tables -------------------------------------------------------------------------------------------


def _grid(*columns: tuple[str, int | None]) -> Table:
    """Return an empty table; a column is (how it is justified, its share of the width that is left or None)."""
    table = Table.grid(padding=(0, 2), expand=True)
    for justify, ratio in columns:
        table.add_column(justify=justify, ratio=ratio, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    return table


def _side_by_side(left: RenderableType, right: RenderableType) -> Table:
    table = Table.grid(padding=(0, 3), expand=True)
    table.add_column(ratio=5)
    table.add_column(ratio=4)
    table.add_row(left, right)
    return table


def _names(status: Status) -> list[tuple[str, Status]]:
    """Return the functions by name: first those of which calls run, then those that are open; at the end of a run first
    those that are not all done.
    """
    names = [(name, each) for name, each in _mapping(status, "by_name").items() if isinstance(each, Mapping)]
    names.sort(key=lambda item: (not _number(item[1].get("running")), _left(item[1]) <= 0))
    if _has_ended(status):
        names.sort(key=lambda item: _number(item[1].get("done")) >= _number(item[1].get("total")))
        return [(name, {**each, "waiting": _left(each) - _number(each.get("running"))}) for name, each in names]
    return names


def _left(each: Status) -> float:
    return _number(each.get("total")) - sum(_number(each.get(name)) for name in ("done", "failed", "skipped"))


def _name_table(names: Sequence[tuple[str, Status]], rows: int, width: int) -> Table:
    shown, more = _cut(names, rows)
    states = [state for state in _STATES_OF_A_NAME if any(_number(each.get(state)) for _, each in shown)]
    has_bar = width >= _MAX_COLUMNS + _STATE_COLUMNS * max(0, len(states) - _USUAL_STATES)
    has_mean, has_sum = width >= _ALL_COLUMNS, width >= _ALL_COLUMNS + _SUM_COLUMNS
    table = _grid(("left", None if has_bar else 1), ("right", None), *([("left", 1)] if has_bar else []))
    for _ in range(len(states) + has_mean):
        table.add_column(justify="right", no_wrap=True)
    for name, each in shown:
        total, done, mean_s = (_number(each.get(key)) for key in ("total", "done", "mean_s"))
        missed = _number(each.get("failed")) + _number(each.get("skipped"))
        grows = bool(each.get("may_grow"))
        counts = f"{done:,.0f}/{total:,.0f}{'+' if grows else ''} done"
        cells: list[RenderableType] = [_short(name, max(8, width // 4)), counts]
        cells += ["" if grows else _progress(done, missed, total)] if has_bar else []
        of_states = [(_number(each.get(state)), state) for state in states]
        cells += [
            Text(f"{count:,.0f} {state}" if count else "", _STATES_OF_A_NAME[state]) for count, state in of_states
        ]
        in_all = f", {call_time_text(_number(each.get('busy_s')))} in all" if has_sum else ""
        cells += [Text(f"{call_time_text(mean_s)} each{in_all}" if mean_s else "", "dim")] if has_mean else []
        table.add_row(*cells)
    if more:
        table.add_row(Text(f"and {more:,} more", "dim"))
    return table


def _hosts(status: Status) -> list[tuple[str, Status]]:
    return [(host, each) for host, each in _mapping(status, "hosts").items() if isinstance(each, Mapping)]


def _host_table(status: Status, hosts: Sequence[tuple[str, Status]], rows: int, width: int) -> Table:
    has_gpus, has_ended = any(_number(each.get("gpus")) for _, each in hosts), _has_ended(status)
    table = _grid(("left", None), *[("right", None)] * (3 + has_gpus), ("left", 1))
    shown, more = _cut(hosts, rows)
    for host, each in shown:
        each = {name: each[name] for name in each if name not in _OF_A_MOMENT} if has_ended else each
        cells = [_busy(each, width), _cores(each, width), _memory(each)]
        table.add_row(_short(host, max(8, width // 4)), *cells, *([_gpus(each)] if has_gpus else []))
    if more:
        table.add_row(Text(f"and {more:,} more", "dim"))
    return table


def _busy(each: Status, width: int) -> str:
    busy, slots, ranks = each.get("busy"), f"{_number(each.get('slots')):,.0f}", _number(each.get("lost"))
    lost = f", {ranks:,.0f}{' ranks' if ranks > 1 else ' rank'} lost" if ranks else ""
    if busy is None:
        return f"{slots} slots{lost}"
    return f"{_number(busy):,.0f}/{slots}{' busy' if width >= _MAX_COLUMNS else ''}{lost}"


def _cores(each: Status, width: int) -> str:
    percent, cores = each.get("cpu_percent"), f"{_number(each.get('cores')):,.0f} cores"
    if percent is None:
        return cores
    return f"{_number(percent):.0f} %" + (f" of {cores}" if width >= _ALL_COLUMNS else "")


def _memory(each: Status) -> str:
    used, whole = each.get("memory_used_mb"), f"{_number(each.get('memory_mb')) / _MB_PER_GB:,.0f} GB"
    return whole if used is None else f"{_number(used) / _MB_PER_GB:,.0f}/{whole}"


def _gpus(each: Status) -> str:
    gpus, percent = _number(each.get("gpus")), each.get("gpu_percent")
    if not gpus:
        return ""
    used = "" if percent is None else f" {_number(percent):.0f} %"
    claimed = "" if each.get("gpus_claimed") is None else f"{_number(each.get('gpus_claimed')):,.3g}/"
    return f"{claimed}{counted(round(gpus), 'GPU')}{used}"


def _call_table(status: Status, calls: Sequence[object], now: float, rows: int, width: int) -> Table:
    verb = "was running" if _has_ended(status) else "running"
    table = _grid(("left", None), ("right", None), ("left", 1))
    for call in calls[:rows]:
        call = call if isinstance(call, Mapping) else {}
        age_s = max(0.0, now - _number(call.get("started_s", now)))
        attempt = _number(call.get("attempt"))
        again = f", attempt {attempt:.0f}" if attempt > 1 else ""
        where = f"on rank {_short(call.get('rank'), 12)} ({_short(call.get('host'))}){again}"
        name = _short(call.get("id"), max(8, width // 2))
        table.add_row(name, f"{verb} for {duration_text(age_s)}", Text(where, "dim"))
    return table


def _cut(items: Sequence[tuple[str, Status]], rows: int) -> tuple[Sequence[tuple[str, Status]], int]:
    """Return the items that are shown in ``rows`` rows, and how many are not, which takes the last row."""
    if len(items) <= rows or rows < _MIN_CUT:
        return items[:rows], 0
    return items[: rows - 1], len(items) - rows + 1


# -- what a status holds, which another version may have written --------------------------------------


def _has_ended(status: Status) -> bool:
    return status.get("exit_code") is not None


def _mapping(status: Status, name: str) -> Mapping[str, object]:
    found = status.get(name)
    return found if isinstance(found, Mapping) else {}


def _list(status: Status, name: str) -> list[object]:
    found = status.get(name)
    return found if isinstance(found, list) else []


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and value == value else 0.0


def _short(text: object, limit: int = _MAX_CHARS) -> str:
    return one_line(str(text), limit)


def plain(lines: Iterable[str]) -> str:
    """Return lines without colours, for tests and for logs."""
    return "\n".join(Text.from_ansi(line).plain for line in lines)
