"""The execution graph of a run, and the forms other tools read it in.

Everything here is a pure function from records to plain data or text, in time linear in the functions and
their inputs; it never sees a live object of a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from numbers import Integral
from typing import Any, Protocol, TypeAlias

from handoff_mpi.results.records import TaskRecord
from handoff_mpi.visualization.escaping import dot_string, mermaid_string, visible

#: networkx node-link data, as :func:`execution_graph` returns it; it survives JSON unchanged.
GraphData: TypeAlias = dict[str, Any]

#: An id as it is carried: a node of the graph.
Key: TypeAlias = str | int

_Node: TypeAlias = dict[str, Any]

#: The state of what is only named as an input and has no record of its own.
UNRECORDED = "unrecorded"

# (fill, border): light fills, so that black text stays readable.
_COLOURS = {
    "done": ("#d3f0d8", "#3f8f54"),
    "failed": ("#f8cfcb", "#c03a2b"),
    "skipped": ("#fbe7c2", "#b98217"),
    "waiting": ("#eceff2", "#8a96a3"),
    UNRECORDED: ("#ffffff", "#8a96a3"),
}


class RunRecords(Protocol):
    """The object that is drawn: any with the records of one run."""

    @property
    def dag_id(self) -> Hashable: ...

    @property
    def status(self) -> str: ...

    def records(self) -> Iterable[TaskRecord]: ...


def execution_graph(results: RunRecords) -> GraphData:
    """Return the graph of a run: its functions with rank, times and state, and the values between them.

    The data is in networkx's node-link format (``networkx.node_link_graph(data, edges="edges")`` reads it) and
    holds nothing but what JSON knows:

    - ``directed`` (True), ``multigraph`` (False);
    - ``graph``: dag_id, status, functions (how many), states (state to how many), ranks (a list of rank, host,
      functions), started_s and stopped_s of the whole;
    - ``nodes``: id, label, name, rank, host, state, started_s, stopped_s, duration_s, attempts, cost, nbytes,
      error, id_type, each as in :class:`~handoff_mpi.results.records.TaskRecord`; times are in seconds, those
      unknown are None;
    - ``edges``: source (producer), target (consumer), nbytes (the size of the producer's value), crosses_ranks
      (both are known to have run, and not on the same rank). A value used twice by one function is one edge.

    Ids that are strings or whole numbers are carried as they are, any others by their ``repr``; ``id_type``
    names the id's class. Where a repr is taken already, " #2" (" #3", ...) is put behind it, so different ids
    stay different nodes. What is named as an input but has no record is a node with state "unrecorded".
    """
    records = _with_missing(results.records())
    keys = _carry(records)
    nodes = [_node(record, keys[record.id]) for record in records.values()]
    edges = [
        _edge(records[source], record, keys) for record in records.values() for source in dict.fromkeys(record.inputs)
    ]
    graph = {"dag_id": _carry([results.dag_id])[results.dag_id], "status": results.status, **_totals(nodes)}
    return {"directed": True, "multigraph": False, "graph": graph, "nodes": nodes, "edges": edges}


def timeline(results: RunRecords) -> list[dict[str, Any]]:
    """Return one row for each function that was started, sorted by rank and start: what a Gantt chart shows.

    A row holds rank, host, id (as :func:`execution_graph` carries it), started_s, stopped_s (seconds since the
    epoch; stopped_s is None where the end is not known) and state.
    """
    records = _with_missing(results.records())
    keys = _carry(records)
    started = [
        (record.rank, record.started_s, record)
        for record in records.values()
        if record.rank is not None and record.started_s is not None
    ]
    started.sort(key=lambda row: row[:2])
    return [
        {
            "rank": rank,
            "host": record.host,
            "id": keys[record.id],
            "started_s": started_s,
            "stopped_s": record.stopped_s,
            "state": record.state,
        }
        for rank, started_s, record in started
    ]


def to_networkx(graph_data: GraphData) -> Any:
    """Return the ``networkx.DiGraph`` of an execution graph, with all attributes."""
    # Imported here: it takes longer than the rest of the package, and a run that is not drawn needs none of it.
    import networkx

    # Not node_link_graph: the name of its argument for edges depends on the version of networkx.
    graph = networkx.DiGraph()
    graph.graph.update(graph_data["graph"])
    graph.add_nodes_from((node["id"], _without(node, "id")) for node in graph_data["nodes"])
    graph.add_edges_from(
        (edge["source"], edge["target"], _without(edge, "source", "target")) for edge in graph_data["edges"]
    )
    return graph


def to_dot(graph_data: GraphData) -> str:
    """Return an execution graph in Graphviz's language, for ``dot -Tsvg``.

    Ranks are clusters, colours are states, dark edges cross ranks; in SVG a tooltip tells name, duration and
    error. Nodes are named by their ids; a number whose digits are another node's id has " #2" behind it.
    """
    names = _texts(graph_data["nodes"], visible, _Names())
    lines = [
        f"digraph {dot_string(str(graph_data['graph']['dag_id']))} {{",
        '  graph [rankdir=TB, fontname="Helvetica", fontsize=11, color="#c4ccd4", style="rounded"];',
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11];',
        '  edge [color="#a9b4bf", arrowsize=0.7];',
    ]
    for number, (title, nodes) in enumerate(_by_rank(graph_data["nodes"])):
        inside = [f"  {dot_string(names[node['id']])} [{_dot_attributes(node)}];" for node in nodes]
        if title:
            lines.append(f"  subgraph cluster_{number} {{")
            lines.append(f"    label={dot_string(title)};")
            lines += ["  " + line for line in inside]
            lines.append("  }")
        else:
            lines += inside
    for edge in graph_data["edges"]:
        style = ' [color="#4a5866"]' if edge["crosses_ranks"] else ""
        lines.append(f"  {dot_string(names[edge['source']])} -> {dot_string(names[edge['target']])}{style};")
    return "\n".join([*lines, "}", ""])


def to_mermaid(graph_data: GraphData) -> str:
    """Return an execution graph as a Mermaid flowchart, for Markdown: subgraphs are ranks, colours are states.

    Viewers draw no more than 500 edges unless told otherwise; larger graphs are for :func:`to_dot` and
    :func:`to_cytoscape`.
    """
    # Named by number: as names Mermaid takes no free text, and trips over words of its own ("end").
    names = {node["id"]: f"n{number}" for number, node in enumerate(graph_data["nodes"])}
    lines = ["flowchart TB"]
    for number, (title, nodes) in enumerate(_by_rank(graph_data["nodes"])):
        inside = [f"  {names[node['id']]}{_mermaid_box(node)}" for node in nodes]
        if title:
            lines.append(f"  subgraph r{number}[{mermaid_string(title)}]")
            lines += ["  " + line for line in inside]
            lines.append("  end")
        else:
            lines += inside
    for edge in graph_data["edges"]:
        arrow = "==>" if edge["crosses_ranks"] else "-->"
        lines.append(f"  {names[edge['source']]} {arrow} {names[edge['target']]}")
    for state, (fill, border) in _COLOURS.items():
        lines.append(f"  classDef {state} fill:{fill},stroke:{border},color:#000")
    return "\n".join([*lines, ""])


def to_cytoscape(graph_data: GraphData) -> dict[str, Any]:
    """Return an execution graph in Cytoscape's JSON: ``cytoscape({container, ...data})``, or a ``.cyjs`` file.

    ``elements`` holds lists of nodes and edges, whose ``data`` are those of the graph; ranks are parents of the
    nodes that ran there. Ids are strings here, as Cytoscape wants them: a number is carried by its digits (with
    " #2" behind them if they are the id of another node).
    """
    names = _Names()
    texts = _texts(graph_data["nodes"], str, names)
    nodes: list[dict[str, Any]] = []
    for title, members in _by_rank(graph_data["nodes"]):
        parent = str(names.claim(title)) if title else None
        if parent is not None:
            place = {"rank": members[0]["rank"], "host": members[0]["host"]}
            nodes.append({"data": {"id": parent, "value": parent, "label": title, **place}})
        for node in members:
            # "value" is where networkx.cytoscape_graph looks for the node itself.
            data = {**node, "id": texts[node["id"]], "value": texts[node["id"]]}
            nodes.append({"data": data if parent is None else {**data, "parent": parent}})
    edges = [
        {"data": {**edge, "source": texts[edge["source"]], "target": texts[edge["target"]]}}
        for edge in graph_data["edges"]
    ]
    return {
        "data": dict(graph_data["graph"]),
        "directed": True,
        "multigraph": False,
        "elements": {"nodes": nodes, "edges": edges},
    }


class _Names:
    """Gives out names, each only once: the one that is wanted or, where that is taken, one with a number."""

    def __init__(self) -> None:
        self._taken: set[Key] = set()
        self._last: dict[Key, int] = {}

    def claim(self, wanted: Key) -> Key:
        name = wanted
        while name in self._taken:
            # Counting on from the last number keeps a million equal reprs linear.
            self._last[wanted] = number = self._last.get(wanted, 1) + 1
            name = f"{wanted} #{number}"
        self._taken.add(name)
        return name


def _carry(ids: Iterable[Hashable]) -> dict[Hashable, Key]:
    """Return how each id is carried; strings and numbers choose first, so that they stay what they are."""
    every = dict.fromkeys(ids)
    names = _Names()
    keys: dict[Hashable, Key] = {}
    for identity in every:
        if isinstance(identity, str):
            keys[identity] = names.claim(str.__str__(identity))
        elif isinstance(identity, Integral) and not isinstance(identity, bool):
            keys[identity] = names.claim(int(identity))
    for identity in every:
        if identity not in keys:
            keys[identity] = names.claim(repr(identity))
    return keys


def _texts(nodes: list[_Node], show: Callable[[str], str], names: _Names) -> dict[Key, str]:
    """Return a text for each node's id, different ones for different ids; strings choose first."""
    keys: list[Key] = [node["id"] for node in nodes]
    texts: dict[Key, str] = {}
    for key in sorted(keys, key=lambda key: not isinstance(key, str)):
        # An empty name is none in Cytoscape.
        texts[key] = str(names.claim(show(str(key)) or "''"))
    return texts


def _with_missing(records: Iterable[TaskRecord]) -> dict[Hashable, TaskRecord]:
    """Return the records by id, with a blank one for each input that has none."""
    found = {record.id: record for record in records}
    inputs = [source for record in found.values() for source in record.inputs]
    for source in inputs:
        if source not in found:
            found[source] = TaskRecord(source, "", UNRECORDED, None, None, None, None, 0, (), {}, 0, "")
    return found


def _node(record: TaskRecord, key: Key) -> _Node:
    start, stop = record.started_s, record.stopped_s
    return {
        "id": key,
        "label": str(key),
        "name": record.name,
        "rank": record.rank,
        "host": record.host,
        "state": record.state,
        "started_s": start,
        "stopped_s": stop,
        "duration_s": None if start is None or stop is None else stop - start,
        "attempts": record.attempts,
        "cost": dict(record.cost),
        "nbytes": record.nbytes,
        "error": record.error,
        "id_type": type(record.id).__name__,
    }


def _edge(producer: TaskRecord, consumer: TaskRecord, keys: dict[Hashable, Key]) -> dict[str, Any]:
    both_ran = producer.rank is not None and consumer.rank is not None
    # After a resume rank 3 may be on another host than the rank 3 before: the number alone says too little.
    apart = (producer.rank, producer.host) != (consumer.rank, consumer.host)
    return {
        "source": keys[producer.id],
        "target": keys[consumer.id],
        "nbytes": producer.nbytes,
        "crosses_ranks": both_ran and apart,
    }


def _totals(nodes: list[_Node]) -> dict[str, Any]:
    places = Counter((node["rank"], node["host"]) for node in nodes if node["rank"] is not None)
    ranks = [
        {"rank": rank, "host": host, "functions": places[rank, host]} for rank, host in sorted(places, key=_place_order)
    ]
    return {
        "functions": len(nodes),
        "states": dict(Counter(node["state"] for node in nodes)),
        "ranks": ranks,
        "started_s": min((node["started_s"] for node in nodes if node["started_s"] is not None), default=None),
        "stopped_s": max((node["stopped_s"] for node in nodes if node["stopped_s"] is not None), default=None),
    }


def _place_order(place: tuple[int, str | None]) -> tuple[int, str]:
    rank, host = place
    return rank, host or ""


def _by_rank(nodes: list[_Node]) -> list[tuple[str, list[_Node]]]:
    """Return (title, nodes) of every rank, in their order; last and without a title, what ran nowhere."""
    places: dict[tuple[int, str | None], list[_Node]] = {}
    nowhere: list[_Node] = []
    for node in nodes:
        if node["rank"] is None:
            nowhere.append(node)
        else:
            places.setdefault((node["rank"], node["host"]), []).append(node)
    groups = [(_title(*place), places[place]) for place in sorted(places, key=_place_order)]
    return [*groups, ("", nowhere)] if nowhere else groups


def _title(rank: int, host: str | None) -> str:
    return f"rank {rank} on {host}" if host else f"rank {rank}"


def _without(mapping: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in names}


def _dot_attributes(node: _Node) -> str:
    fill, border = _COLOURS.get(node["state"], _COLOURS["waiting"])
    label, tooltip = dot_string(node["label"]), dot_string(_tooltip(node))
    return f'label={label}, tooltip={tooltip}, fillcolor="{fill}", color="{border}"'


def _tooltip(node: _Node) -> str:
    took = "" if node["duration_s"] is None else f" in {node['duration_s']:.6g} s"
    tries = f", {node['attempts']} attempts" if node["attempts"] > 1 else ""
    lines = [node["name"], f"{node['state']}{took}{tries}", node["error"]]
    return "\n".join(line for line in lines if line)


def _mermaid_box(node: _Node) -> str:
    colour = f":::{node['state']}" if node["state"] in _COLOURS else ""
    return f"[{mermaid_string(node['label'])}]{colour}"
