"""A drawing in the languages of Graphviz and Mermaid.

A box is filled with the colours of its ranks. Its line tells the state, and so do words, so that no one needs to see
colours: failed has a double red line, running a bold one, skipped a dashed one, waiting a dotted one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from handoff_mpi.visualization.drawing import Box, Drawing
from handoff_mpi.visualization.escaping import dot_string, mermaid_string
from handoff_mpi.visualization.palette import FAILED_LINE, LINE, NEUTRAL, RANK_COLOURS, UNFILLED

_DOT_LINES = {
    "failed": f'color="{FAILED_LINE}", penwidth=2, peripheries=2',
    "running": "penwidth=3",
    "skipped": "style={dashed}",
    "waiting": "style={dotted}",
}
_MERMAID_LINES = {
    "failed": f"stroke:{FAILED_LINE},stroke-width:4px",
    "running": "stroke-width:4px",
    "skipped": "stroke-dasharray:6 4",
    "waiting": "stroke-dasharray:2 3",
}
_FONT = 'fontname="Helvetica", fontsize=11'


def _lines_of(drawing: Drawing, box: Box) -> Iterator[str]:
    """Yield what is written in a box."""
    yield f"{box.label} x{box.count:,}" if drawing.is_grouped else box.label
    if box.name:
        yield box.name
    if box.state_text and (drawing.is_grouped or box.state_text != "done"):
        yield box.state_text
    if box.place:
        yield f"{box.place}, {box.time_text}"


def dot_text(drawing: Drawing) -> str:
    """Return a drawing in Graphviz's language, for ``dot``."""
    lines = [
        f"digraph {dot_string(drawing.title)} {{",
        f"  graph [rankdir=TB, {_FONT}, labelloc=t, label={dot_string(f'{drawing.title}: {drawing.summary}')}];",
        f'  node [shape=box, style=filled, fillcolor="{UNFILLED}", color="{LINE}", {_FONT}];',
        f'  edge [color="{LINE}", arrowsize=0.7, {_FONT}];',
        *(f"  b{number} [{_dot_box(drawing, box)}];" for number, box in enumerate(drawing.boxes)),
    ]
    for (source, target), count in drawing.arrows.items():
        label = f' [label="{count:,}"]' if drawing.is_grouped else ""
        lines.append(f"  b{source} -> b{target}{label};")
    return "\n".join([*lines, *_dot_legend(drawing), "}", ""])


def _dot_box(drawing: Drawing, box: Box) -> str:
    style, fill = _dot_fill(drawing, box)
    line = _DOT_LINES.get(box.state, "")
    if line.startswith("style="):
        style, line = f"{style},{line[7:-1]}", ""
    tooltip = "\n".join(filter(None, [box.label, box.state_text, box.error]))
    told = [f"label={dot_string(chr(10).join(_lines_of(drawing, box)))}", f"tooltip={dot_string(tooltip)}"]
    told += [f'style="{style}"', f'fillcolor="{fill}"', line]
    return ", ".join(filter(None, told))


def _dot_fill(drawing: Drawing, box: Box) -> tuple[str, str]:
    if len(box.stripes) > 1:
        return "striped", ":".join(f"{RANK_COLOURS[colour]};{share:.4f}" for colour, share in box.stripes[:-1]) + (
            f":{RANK_COLOURS[box.stripes[-1][0]]}"
        )
    if box.stripes:
        return "filled", RANK_COLOURS[box.stripes[0][0]]
    return "filled", NEUTRAL if box.place else UNFILLED


def _dot_legend(drawing: Drawing) -> Iterator[str]:
    boxes = list(_dot_legend_boxes(drawing))
    if not boxes:
        return
    yield "  subgraph cluster_legend {"
    yield f'    label="legend"; color="{NEUTRAL}"; {_FONT.replace(",", ";")};'
    yield "    subgraph legend_row {"
    yield "      rank=same;"
    yield from (f"      {name} [{about}];" for name, about in boxes)
    yield from (f"      {one} -> {next_one} [style=invis];" for (one, _), (next_one, _) in pairwise(boxes))  # in order
    yield "    }"
    yield "  }"


def _dot_legend_boxes(drawing: Drawing) -> Iterator[tuple[str, str]]:
    for colour, ranks in drawing.legend:
        yield f"c{colour}", f'label={dot_string(ranks)}, fillcolor="{RANK_COLOURS[colour]}"'
    for state in dict.fromkeys(box.state for box in drawing.boxes if box.state in _DOT_LINES):
        line = _DOT_LINES[state]
        line = f'style="filled,{line[7:-1]}"' if line.startswith("style=") else line
        yield f"s_{state}", f'label="{state}", {line}'


def mermaid_text(drawing: Drawing) -> str:
    """Return a drawing as a Mermaid flowchart, for Markdown."""
    lines = ["flowchart TB"]
    for number, box in enumerate(drawing.boxes):
        lines.append(f"  b{number}[{mermaid_string(chr(10).join(_lines_of(drawing, box)))}]")
    for (source, target), count in drawing.arrows.items():
        lines.append(f"  b{source} -->{f'|{count}|' if drawing.is_grouped else ''} b{target}")
    legend = _mermaid_legend(drawing)
    if legend:
        lines.append('  subgraph legend["legend"]')
        lines += [f"    c{colour}[{mermaid_string(ranks)}]" for colour, ranks in legend.items()]
        lines.append("  end")
    return "\n".join([*lines, *_mermaid_classes(drawing, legend), ""])


def _mermaid_legend(drawing: Drawing) -> dict[int, str]:
    """Return number of the colour to ranks, of colours that boxes have alone: Mermaid has no stripes."""
    used = {box.stripes[0][0] for box in drawing.boxes if len(box.stripes) == 1}
    return {colour: ranks for colour, ranks in drawing.legend if colour in used}


def _mermaid_classes(drawing: Drawing, legend: dict[int, str]) -> Iterator[str]:
    """Yield the colours and lines; a box has one class for each."""
    members: dict[str, list[str]] = defaultdict(list)
    for number, box in enumerate(drawing.boxes):
        colour = box.stripes[0][0] if len(box.stripes) == 1 else None
        members["neutral" if colour is None else f"colour{colour}"].append(f"b{number}")
        if box.state in _MERMAID_LINES:
            members[box.state].append(f"b{number}")
    for colour in legend:
        members[f"colour{colour}"].append(f"c{colour}")
    fill = NEUTRAL if drawing.has_run else UNFILLED
    looks = {"neutral": f"fill:{fill},stroke:{LINE},color:#000", **_MERMAID_LINES}
    looks |= {f"colour{number}": f"fill:{each},stroke:{LINE},color:#000" for number, each in enumerate(RANK_COLOURS)}
    for name, boxes in members.items():
        yield f"  classDef {name} {looks[name]}"
        yield f"  class {','.join(boxes)} {name}"
