"""A drawing as lines for the terminal: layer by layer, each box with what it takes its values from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.text import Text

from handoff_mpi.visualization.drawing import Box, Drawing
from handoff_mpi.visualization.palette import RANK_COLOURS

#: Boxes that a box takes values from, and that are named.
_MAX_SOURCES = 6
_MAX_WIDTH = 40
_STATE_STYLES = {"failed": "bold red", "running": "bold", "skipped": "dim", "waiting": "dim"}


def text_lines(drawing: Drawing) -> Iterator[Text]:
    """Yield the lines of a drawing; ranks have their colours where the terminal has them."""
    yield Text.assemble((drawing.title, "bold"), f": {drawing.summary}")
    sources: dict[int, list[int]] = defaultdict(list)
    for source, target in drawing.arrows:
        sources[target].append(source)
    rows = [_cells(drawing, number, sources[number]) for number in range(len(drawing.boxes))]
    widths = [min(_MAX_WIDTH, max(map(len, column))) for column in zip(*rows, strict=True)]
    last = None
    for box, row in zip(drawing.boxes, rows, strict=True):
        if box.layers != last and not drawing.is_grouped:
            yield Text()
            yield Text(f"layer {box.layers[0]}", "bold")
        elif last is None:
            yield Text()
        last = box.layers
        yield _line(box, row, widths)
        if box.error:
            yield Text(f"      {box.error}", "red")


def _cells(drawing: Drawing, number: int, sources: Sequence[int]) -> list[str]:
    box = drawing.boxes[number]
    label = f"{box.label} x{box.count:,}" if drawing.is_grouped else box.label
    where = [_layers(box)] if drawing.is_grouped else []
    return [*where, label, box.name, box.state_text, box.place, box.time_text, _sources(drawing, number, sources)]


def _layers(box: Box) -> str:
    first, last = box.layers
    return f"layer {first}" if first == last else f"layers {first}-{last}"


def _sources(drawing: Drawing, number: int, sources: Sequence[int]) -> str:
    if not sources:
        return ""
    most = sorted(sources, key=lambda each: -drawing.arrows[each, number])[:_MAX_SOURCES]
    named = [_source(drawing, each, number) for each in most]
    more = f" and {len(sources) - _MAX_SOURCES:,} more" if len(sources) > _MAX_SOURCES else ""
    return f"<- {', '.join(named)}{more}"


def _source(drawing: Drawing, source: int, target: int) -> str:
    count = f" ({drawing.arrows[source, target]:,})" if drawing.is_grouped else ""
    return f"{drawing.boxes[source].label}{count}"


def _line(box: Box, row: Sequence[str], widths: Sequence[int]) -> Text:
    line = Text("  ")
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        if not width:
            continue
        is_place, is_state = index == len(row) - 3, index == len(row) - 4
        line.append(cell, _style(box, is_place, is_state))
        line.append(" " * (width - len(cell) + 2))
    line.rstrip()
    return line


def _style(box: Box, is_place: bool, is_state: bool) -> str:
    if is_place and len(box.stripes) == 1:
        return RANK_COLOURS[box.stripes[0][0]]
    return _STATE_STYLES.get(box.state, "") if is_state else ""
