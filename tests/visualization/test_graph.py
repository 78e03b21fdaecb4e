"""The execution graph, and the forms other tools read it in.

DOT is read back by a small reader of Graphviz's grammar below, Mermaid by another, so that what is
compared is what those tools see rather than the text.
"""

from __future__ import annotations

import enum
import html
import json
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import networkx
import pytest

from handoff_mpi.results.records import TaskRecord
from handoff_mpi.visualization import (
    execution_graph,
    timeline,
    to_cytoscape,
    to_dot,
    to_mermaid,
    to_networkx,
)

BASE = TaskRecord(
    id="x", name="mod.x", state="done", rank=0, host="alpha", started_s=100.0, stopped_s=101.5,
    attempts=1, inputs=(), cost={"cpu": 1}, nbytes=8, error="",
)  # fmt: skip


@dataclass
class Run:
    """Any object with dag_id, status and records() will do."""

    rows: Iterable[TaskRecord] = ()
    dag_id: Hashable = "spectra"
    status: str = "failed"

    def records(self) -> Iterable[TaskRecord]:
        return iter(self.rows)


def record(identity: Hashable, **changes: Any) -> TaskRecord:
    return replace(BASE, id=identity, **changes)


def spectra() -> Run:
    """Four functions on two ranks of two hosts; one fails, the last is skipped and ran nowhere."""
    nowhere: dict[str, Any] = {"rank": None, "host": None, "started_s": None, "stopped_s": None, "attempts": 0}
    half_a_gpu = {"cpu": 4, "gpu": 0.5}
    return Run(
        [
            record("load", name="lab.load", rank=1, nbytes=8_000_000),
            record("fit", rank=1, inputs=("load",), started_s=102.0, stopped_s=104.0, cost=half_a_gpu),
            record(
                "fft", rank=2, host="beta", inputs=("load",), state="failed", started_s=102.5, stopped_s=103.0,
                attempts=4, nbytes=0, error='ValueError: no "data"',
            ),
            record("report", inputs=("fit", "fft"), state="skipped", nbytes=0, error="fft failed", **nowhere),
        ]
    )  # fmt: skip


# -- readers ----------------------------------------------------------------------------------------------


@dataclass
class DotGraph:
    name: str
    nodes: dict[str, dict[str, str]] = field(default_factory=dict)
    edges: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    clusters: dict[str, dict[str, Any]] = field(default_factory=dict)


_DOT_TOKEN = re.compile(
    r"""\s*(?:
        "(?P<quoted>(?:[^"\\]|\\.)*)"            # a backslash takes the next character with it
      | (?P<word>[A-Za-z_\x80-\uffff][\w\x80-\uffff]*|-?(?:\.\d+|\d+(?:\.\d*)?))
      | (?P<sign>->|[{}\[\];=,])
    )""",
    re.VERBOSE | re.DOTALL,
)


def read_dot(text: str) -> DotGraph:
    """Read ``digraph``, ``subgraph``, node, edge and attribute statements; anything else is an error."""
    tokens: list[tuple[str, str]] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _DOT_TOKEN.match(text, at)
        assert match is not None, f"not DOT: {text[at : at + 40]!r}"
        kind = str(match.lastgroup)
        # Of the escapes Graphviz itself undoes \" only; the others are left to the program that shows the string.
        value = re.sub(r"\\(.)", lambda m: '"' if m[1] == '"' else m[0], match[kind], flags=re.DOTALL)
        tokens.append((kind, value))
        at = match.end()
    reader = _DotReader(tokens)
    return reader.graph()


class _DotReader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens[::-1]

    def sign(self, wanted: str) -> bool:
        if self.tokens and self.tokens[-1] == ("sign", wanted):
            self.tokens.pop()
            return True
        return False

    def need(self, wanted: str) -> None:
        assert self.sign(wanted), f"expected {wanted!r}, found {self.tokens[-1:]}"

    def identity(self) -> str:
        kind, value = self.tokens.pop()
        assert kind != "sign", f"expected an ID, found {value!r}"
        keywords = ("node", "edge", "graph", "digraph", "subgraph", "strict")
        assert kind != "word" or value.lower() not in keywords, f"keyword {value}"
        return value

    def graph(self) -> DotGraph:
        assert self.tokens.pop() == ("word", "digraph")
        graph = DotGraph(self.identity())
        self.statements(graph, None)
        assert not self.tokens, f"left over: {self.tokens[::-1]}"
        return graph

    def statements(self, graph: DotGraph, cluster: dict[str, Any] | None) -> None:
        self.need("{")
        while not self.sign("}"):
            self.statement(graph, cluster)
            self.sign(";")

    def statement(self, graph: DotGraph, cluster: dict[str, Any] | None) -> None:
        if self.tokens[-1] == ("word", "subgraph"):
            self.tokens.pop()
            inner = graph.clusters.setdefault(self.identity(), {"nodes": [], "label": ""})
            self.statements(graph, inner)
        elif self.tokens[-1] in (("word", "graph"), ("word", "node"), ("word", "edge")):
            self.tokens.pop()
            assert self.attributes()
        else:
            self.named(graph, cluster)

    def named(self, graph: DotGraph, cluster: dict[str, Any] | None) -> None:
        name = self.identity()
        if self.sign("="):
            assert cluster is not None
            cluster[name] = self.identity()
        elif self.sign("->"):
            graph.edges.append((name, self.identity(), self.attributes()))
        else:
            assert name not in graph.nodes, f"node {name!r} twice"
            graph.nodes[name] = self.attributes()
            if cluster is not None:
                cluster["nodes"].append(name)

    def attributes(self) -> dict[str, str]:
        found: dict[str, str] = {}
        while self.sign("["):
            while not self.sign("]"):
                name = self.identity()
                self.need("=")
                found[name] = self.identity()
                self.sign(",")
        return found


def shown(escaped: str) -> str:
    """Return what Graphviz shows for a label: its escapes undone, then HTML's entities."""
    text = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], escaped)
    assert not re.search(r"\\[NGLETHlr]", re.sub(r"\\\\", "", escaped)), "an escape that means something else"
    return html.unescape(text) if re.search(r"&#?\w+;", text) else text


def read_mermaid(text: str) -> dict[str, Any]:
    """Read the flowchart line by line; anything but the five kinds of lines is an error."""
    found: dict[str, Any] = {"nodes": {}, "edges": [], "groups": {}, "classes": set()}
    group: list[str] | None = None
    head, *lines = text.splitlines()
    assert head == "flowchart TB"
    for line in map(str.strip, lines):
        if match := re.fullmatch(r'subgraph (\w+)\["([^"]*)"\]', line):
            assert group is None
            group = found["groups"].setdefault(mermaid_label(match[2]), [])
        elif line == "end":
            assert group is not None
            group = None
        elif match := re.fullmatch(r'(n\d+)\["([^"]*)"\](?::::?(\w+))?', line):
            assert match[1] not in found["nodes"]
            found["nodes"][match[1]] = (mermaid_label(match[2]), match[3])
            if group is not None:
                group.append(match[1])
        elif match := re.fullmatch(r"(n\d+) (-->|==>) (n\d+)", line):
            found["edges"].append((match[1], match[3], match[2] == "==>"))
        elif match := re.fullmatch(r"classDef (\w+) [\w:#,]+", line):
            found["classes"].add(match[1])
        else:
            raise AssertionError(f"not a flowchart's line: {line!r}")
    assert group is None
    return found


def mermaid_label(text: str) -> str:
    plain = re.sub(r"#\d+;|<br/>", "", text)
    assert not re.search(r"[\"#;`*<>&{}\[\]|\\]", plain), f"left as it is: {plain!r}"
    lines = re.sub(r"#(\d+);", lambda m: chr(int(m[1])), text.replace("<br/>", "\0"))
    return lines.replace("\0", "\n")


# -- the graph --------------------------------------------------------------------------------------------


def test_nodes_say_what_ran_where_and_when() -> None:
    data = execution_graph(spectra())
    nodes = {node["id"]: node for node in data["nodes"]}
    assert nodes["fft"] == {
        "id": "fft",
        "label": "fft",
        "name": "mod.x",
        "rank": 2,
        "host": "beta",
        "state": "failed",
        "started_s": 102.5,
        "stopped_s": 103.0,
        "duration_s": 0.5,
        "attempts": 4,
        "cost": {"cpu": 1},
        "nbytes": 0,
        "error": 'ValueError: no "data"',
        "id_type": "str",
    }
    assert nodes["fit"]["cost"] == {"cpu": 4, "gpu": 0.5}
    assert list(nodes) == ["load", "fit", "fft", "report"]
    skipped = nodes["report"]
    assert [skipped[name] for name in ("rank", "host", "started_s", "stopped_s", "duration_s")] == [None] * 5


def test_edges_carry_the_producers_bytes_and_whether_they_cross_ranks() -> None:
    data = execution_graph(spectra())
    edges = {(edge["source"], edge["target"]): (edge["nbytes"], edge["crosses_ranks"]) for edge in data["edges"]}
    assert edges == {
        ("load", "fit"): (8_000_000, False),
        ("load", "fft"): (8_000_000, True),
        # What never ran crossed nothing.
        ("fit", "report"): (8, False),
        ("fft", "report"): (0, False),
    }


def test_the_whole_is_summed_up() -> None:
    data = execution_graph(spectra())
    assert (data["directed"], data["multigraph"]) == (True, False)
    assert data["graph"] == {
        "dag_id": "spectra",
        "status": "failed",
        "functions": 4,
        "states": {"done": 2, "failed": 1, "skipped": 1},
        "ranks": [{"rank": 1, "host": "alpha", "functions": 2}, {"rank": 2, "host": "beta", "functions": 1}],
        "started_s": 100.0,
        "stopped_s": 104.0,
    }


def test_a_value_used_twice_is_one_edge() -> None:
    data = execution_graph(Run([record("a"), record("b", inputs=("a", "a"))]))
    assert [(edge["source"], edge["target"]) for edge in data["edges"]] == [("a", "b")]


def test_the_same_rank_number_on_another_host_is_another_rank() -> None:
    run = Run([record("a", rank=3, host="alpha"), record("b", rank=3, host="beta", inputs=("a",))])
    data = execution_graph(run)
    assert data["edges"][0]["crosses_ranks"]
    assert [place["host"] for place in data["graph"]["ranks"]] == ["alpha", "beta"]
    assert len(read_dot(to_dot(data)).clusters) == 2


def test_an_input_without_a_record_is_a_node_all_the_same() -> None:
    data = execution_graph(Run([record("b", inputs=("gone",))]))
    (gone,) = [node for node in data["nodes"] if node["id"] == "gone"]
    assert (gone["state"], gone["rank"], gone["label"]) == ("unrecorded", None, "gone")
    assert gone.keys() == data["nodes"][0].keys()
    assert not data["edges"][0]["crosses_ranks"]


def test_a_task_that_has_not_stopped_has_no_duration() -> None:
    data = execution_graph(Run([record("a", stopped_s=None)]))
    assert data["nodes"][0]["duration_s"] is None


def test_an_empty_run_is_an_empty_graph() -> None:
    data = execution_graph(Run(dag_id=("a", 1)))
    assert data["graph"]["dag_id"] == "('a', 1)"
    assert data["nodes"] == data["edges"] == []
    assert data["graph"]["started_s"] is None
    assert read_dot(to_dot(data)).nodes == {}
    assert read_mermaid(to_mermaid(data))["nodes"] == {}
    assert to_cytoscape(data)["elements"] == {"nodes": [], "edges": []}
    assert len(to_networkx(data)) == 0
    assert timeline(Run()) == []


def test_the_records_are_not_handed_out() -> None:
    run = spectra()
    data = execution_graph(run)
    data["nodes"][1]["cost"]["cpu"] = 99
    assert next(r for r in run.rows if r.id == "fit").cost["cpu"] == 4


# -- ids --------------------------------------------------------------------------------------------------


class Twin:
    """Two of these are different ids of one repr."""

    def __repr__(self) -> str:
        return "Twin"


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 7


def carried(*ids: Hashable) -> list[str | int]:
    data = execution_graph(Run([record(identity) for identity in ids]))
    assert json.loads(json.dumps(data)) == data
    keys = [node["id"] for node in data["nodes"]]
    assert all(type(key) in (str, int) for key in keys)
    assert len(set(keys)) == len(ids)
    return keys


def test_strings_and_whole_numbers_are_carried_as_they_are() -> None:
    assert carried("a", 1, "1", -3, 2**70, "", Colour.RED, Level.HIGH) == ["a", 1, "1", -3, 2**70, "", "red", 7]


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    assert carried(numpy.int64(4), numpy.str_("a")) == [4, "a"]


def test_other_ids_are_carried_by_their_repr() -> None:
    assert carried(("fit", 1), 2.5, None, True, frozenset({1})) == [
        "('fit', 1)",
        "2.5",
        "None",
        "True",
        "frozenset({1})",
    ]


def test_different_ids_never_become_one_node() -> None:
    first, second = Twin(), Twin()
    # Strings choose first, wherever they stand, so that they stay what they are.
    assert carried((1, 2), "(1, 2)") == ["(1, 2) #2", "(1, 2)"]
    assert carried(first, second, "Twin #2", "Twin") == ["Twin #3", "Twin #4", "Twin #2", "Twin"]


def test_edges_follow_the_ids_however_they_are_written() -> None:
    first, second = Twin(), Twin()
    run = Run(
        [
            record(first),
            record(second, inputs=(first,)),
            record("Twin", inputs=(second,)),
            # Equal ids are one id, as in any dict.
            record(4, inputs=("Twin",)),
            record("end", inputs=(4.0,)),
        ]
    )
    data = execution_graph(run)
    first_key, second_key, *_ = (node["id"] for node in data["nodes"])
    assert [(edge["source"], edge["target"]) for edge in data["edges"]] == [
        (first_key, second_key),
        (second_key, "Twin"),
        ("Twin", 4),
        (4, "end"),
    ]


def test_the_class_of_an_id_is_told() -> None:
    data = execution_graph(Run([record(("a", 1)), record("b"), record(3)]))
    assert [node["id_type"] for node in data["nodes"]] == ["tuple", "str", "int"]


# -- networkx ---------------------------------------------------------------------------------------------


def test_networkx_reads_the_data_after_json() -> None:
    data = execution_graph(spectra())
    graph = networkx.node_link_graph(json.loads(json.dumps(data)), edges="edges")
    assert type(graph) is networkx.DiGraph
    assert list(networkx.topological_sort(graph)) == ["load", "fit", "fft", "report"]
    assert graph.nodes["fft"]["rank"] == 2
    assert graph.edges["load", "fft"] == {"nbytes": 8_000_000, "crosses_ranks": True}
    assert graph.graph["status"] == "failed"


def test_to_networkx_is_what_networkx_reads_itself() -> None:
    data = execution_graph(spectra())
    ours, theirs = to_networkx(data), networkx.node_link_graph(data, edges="edges")
    assert type(ours) is type(theirs)
    assert networkx.utils.graphs_equal(ours, theirs)
    ours.graph["status"] = "changed"
    assert data["graph"]["status"] == "failed"


# -- DOT --------------------------------------------------------------------------------------------------

AWKWARD = [
    'say "hi"', '"', "back\\", "\\", '\\"', "a\\\\", "\\N", "a\\nb", "a\nb", "a&lt;b", "&amp;", "a & b", "#35;",
    "<b>x</b>", "<br/>", "end", "subgraph", "node", "a:b", "a -> b", "{x}", "[y]", "", "  lead", "a  b", "`m`",
    "__init__", "*s*", "1. x", "- x", "%% c", "a;b", "// c", "é…", "名前", "x|y", "==", "$$x$$", "fa:fa-car",
]  # fmt: skip


def awkward() -> Run:
    ids: list[Hashable] = [*AWKWARD, 1, "1", ("a", 1)]
    rows = [
        record(identity, rank=number % 3, host=f'h"{number % 3}\\', inputs=tuple(ids[max(0, number - 2) : number]))
        for number, identity in enumerate(ids)
    ]
    return Run(rows, dag_id='the "\\dag\n')


def test_dot_has_a_cluster_for_each_rank_and_host() -> None:
    graph = read_dot(to_dot(execution_graph(spectra())))
    assert graph.name == "spectra"
    clusters = {cluster["label"]: cluster["nodes"] for cluster in graph.clusters.values()}
    assert clusters == {"rank 1 on alpha": ["load", "fit"], "rank 2 on beta": ["fft"]}
    # Graphviz draws a box only around subgraphs of such a name.
    assert all(name.startswith("cluster") for name in graph.clusters)
    assert list(graph.nodes) == ["load", "fit", "fft", "report"]


def test_dot_has_every_edge_and_marks_those_that_cross_ranks() -> None:
    graph = read_dot(to_dot(execution_graph(spectra())))
    assert [edge[:2] for edge in graph.edges] == [
        ("load", "fit"), ("load", "fft"), ("fit", "report"), ("fft", "report"),
    ]  # fmt: skip
    assert [bool(edge[2]) for edge in graph.edges] == [False, True, False, False]


def test_dot_colours_nodes_by_state() -> None:
    states = ["done", "failed", "skipped", "waiting", "unrecorded"]
    data = execution_graph(Run([record(f"{state}{k}", state=state) for state in states for k in range(2)]))
    nodes = read_dot(to_dot(data)).nodes
    fills = {state: {nodes[f"{state}{k}"]["fillcolor"] for k in range(2)} for state in states}
    assert all(len(fill) == 1 for fill in fills.values())
    assert len({fill for (fill,) in fills.values()}) == len(states)


def test_dot_tells_the_rest_in_a_tooltip() -> None:
    nodes = read_dot(to_dot(execution_graph(spectra()))).nodes
    assert shown(nodes["fft"]["tooltip"]) == 'mod.x\nfailed in 0.5 s, 4 attempts\nValueError: no "data"'
    assert shown(nodes["report"]["tooltip"]) == "mod.x\nskipped\nfft failed"


def test_dot_escapes_any_characters_of_ids_and_hosts() -> None:
    data = execution_graph(awkward())
    graph = read_dot(to_dot(data))
    assert [shown(node["label"]) for node in graph.nodes.values()] == labels_by_rank(data)
    assert len(graph.edges) == len(data["edges"])
    assert {name for edge in graph.edges for name in edge[:2]} <= set(graph.nodes)
    assert [shown(cluster["label"]) for cluster in graph.clusters.values()] == [
        f'rank {rank} on h"{rank}\\' for rank in range(3)
    ]
    assert shown(graph.name) == 'the "\\dag\n'


def test_dot_edges_join_the_nodes_of_those_labels() -> None:
    data = execution_graph(awkward())
    graph = read_dot(to_dot(data))
    label = {node["id"]: node["label"] for node in data["nodes"]}
    assert [(shown(graph.nodes[a]["label"]), shown(graph.nodes[b]["label"])) for a, b, _ in graph.edges] == [
        (label[edge["source"]], label[edge["target"]]) for edge in data["edges"]
    ]


def test_dot_is_one_statement_a_line() -> None:
    one, two = (to_dot(execution_graph(Run([record(identity)]))) for identity in ("ab", "a\nb"))
    assert one.count("\n") == two.count("\n")


def test_dot_keeps_a_number_and_its_digits_apart() -> None:
    graph = read_dot(to_dot(execution_graph(Run([record(1), record("1", inputs=(1,))]))))
    assert graph.edges == [("1 #2", "1", {})]
    assert set(graph.nodes) == {"1", "1 #2"}


def test_dot_shows_what_cannot_be_printed() -> None:
    # A NUL would end the file for Graphviz, a lone surrogate cannot be written as UTF-8.
    text = to_dot(execution_graph(Run([record("a\0b"), record("\ud800", inputs=("a\0b",)), record("\\x00\t")])))
    text.encode()
    assert "\0" not in text
    labels = [shown(node["label"]) for node in read_dot(text).nodes.values()]
    assert labels == ["a\\x00b", "\\ud800", "\\x00\\t"]


def labels_by_rank(data: dict[str, Any]) -> list[str]:
    return [node["label"] for node in sorted(data["nodes"], key=lambda node: node["rank"])]


# -- Mermaid ----------------------------------------------------------------------------------------------


def test_mermaid_has_ranks_states_and_edges() -> None:
    chart = read_mermaid(to_mermaid(execution_graph(spectra())))
    assert chart["nodes"] == {
        "n0": ("load", "done"), "n1": ("fit", "done"), "n2": ("fft", "failed"), "n3": ("report", "skipped"),
    }  # fmt: skip
    assert chart["groups"] == {"rank 1 on alpha": ["n0", "n1"], "rank 2 on beta": ["n2"]}
    assert chart["edges"] == [("n0", "n1", False), ("n0", "n2", True), ("n1", "n3", False), ("n2", "n3", False)]
    assert {state for _, state in chart["nodes"].values()} <= chart["classes"]


def test_mermaid_escapes_any_characters_of_ids_and_hosts() -> None:
    data = execution_graph(awkward())
    chart = read_mermaid(to_mermaid(data))
    # An empty label is no label to Mermaid.
    assert [label for label, _ in chart["nodes"].values()] == [label or " " for label in labels_by_rank(data)]
    assert len(chart["edges"]) == len(data["edges"])
    assert list(chart["groups"]) == [f'rank {rank} on h"{rank}\\' for rank in range(3)]


@pytest.mark.parametrize("label", ["__init__", "_x_ y", "1. x", "- x", "+ x", "---", "==", "    x", "*s*", "`m`"])
def test_mermaid_leaves_nothing_to_markdown(label: str) -> None:
    line = to_mermaid(execution_graph(Run([record(label)]))).splitlines()[2]
    text = re.fullmatch(r' *n0\["(.*)"\]:::done', line)
    assert text is not None
    bare = re.sub(r"#\d+;", "?", text[1])
    assert not re.search(r"^[-+_=*` ]|[-+_=*`]$|^\d+[.)] |\b_|_\b|  ", bare), bare


def test_mermaid_keeps_plain_names_readable() -> None:
    text = to_mermaid(execution_graph(Run([record("fit_2-a.npy x,y")])))
    assert 'n0["fit_2-a.npy x,y"]:::done' in text


# -- Cytoscape --------------------------------------------------------------------------------------------


def test_cytoscape_has_ranks_as_parents() -> None:
    cytoscape = to_cytoscape(execution_graph(spectra()))
    nodes = {element["data"]["id"]: element["data"] for element in cytoscape["elements"]["nodes"]}
    assert nodes["rank 2 on beta"] == {
        "id": "rank 2 on beta", "value": "rank 2 on beta", "label": "rank 2 on beta", "rank": 2, "host": "beta",
    }  # fmt: skip
    assert nodes["fft"]["parent"] == "rank 2 on beta"
    assert nodes["fft"]["duration_s"] == 0.5
    assert "parent" not in nodes["report"]
    edges = [element["data"] for element in cytoscape["elements"]["edges"]]
    assert edges[1] == {"source": "load", "target": "fft", "nbytes": 8_000_000, "crosses_ranks": True}
    assert cytoscape["data"]["dag_id"] == "spectra"


def test_cytoscape_ids_are_strings_and_distinct_those_of_ranks_too() -> None:
    ids: list[Hashable] = [1, "1", "", "''", "rank 0 on alpha", (1, 2)]
    run = Run([record(identity, inputs=(ids[0],) if identity != 1 else ()) for identity in ids])
    elements = json.loads(json.dumps(to_cytoscape(execution_graph(run))))["elements"]
    names = [element["data"]["id"] for element in elements["nodes"]]
    assert all(isinstance(name, str) and name for name in names)
    assert len(set(names)) == len(ids) + 1
    (parent,) = {element["data"]["parent"] for element in elements["nodes"] if "parent" in element["data"]}
    assert parent == "rank 0 on alpha #2"
    assert {edge["data"]["source"] for edge in elements["edges"]} == {"1 #2"}
    assert {edge["data"]["target"] for edge in elements["edges"]} <= set(names)


def test_networkx_reads_the_cytoscape_form() -> None:
    data = execution_graph(spectra())
    graph = networkx.cytoscape_graph(to_cytoscape(data))
    assert set(graph.nodes) == {"load", "fit", "fft", "report", "rank 1 on alpha", "rank 2 on beta"}
    assert set(graph.edges) == {(edge["source"], edge["target"]) for edge in data["edges"]}
    assert graph.is_directed()


# -- the timeline -----------------------------------------------------------------------------------------


def test_the_timeline_is_sorted_by_rank_and_start() -> None:
    run = Run(
        [
            record("late", rank=1, started_s=5.0, stopped_s=6.0),
            record("two", rank=2, host="beta", started_s=1.0, stopped_s=None, state="failed"),
            record("early", rank=1, started_s=2.0, stopped_s=3.0),
            record("ten", rank=10, started_s=0.0, stopped_s=1.0),
        ]
    )
    rows = timeline(run)
    assert [row["id"] for row in rows] == ["early", "late", "two", "ten"]
    assert rows[2] == {
        "rank": 2, "host": "beta", "id": "two", "started_s": 1.0, "stopped_s": None, "state": "failed",
    }  # fmt: skip


def test_the_timeline_leaves_out_what_never_started() -> None:
    run = Run([record("a", started_s=None, stopped_s=None), record("b", rank=None), record("c")])
    assert [row["id"] for row in timeline(run)] == ["c"]


def test_the_timeline_and_the_graph_carry_ids_alike() -> None:
    first, second = Twin(), Twin()
    run = Run([record(first), record(second), record("Twin"), record((1,))])
    assert [row["id"] for row in timeline(run)] == [node["id"] for node in execution_graph(run)["nodes"]]


def test_rows_of_equal_start_need_no_order_of_their_own() -> None:
    rows = timeline(Run([record("b", host=None), record("a"), record(("c", 1))]))
    assert [row["id"] for row in rows] == ["b", "a", "('c', 1)"]


# -- size -------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(60)
def test_a_hundred_thousand_functions_are_drawn_in_linear_time() -> None:
    # What looks through a list for each node takes minutes here; equal reprs and many ranks are the worst.
    size = 100_000
    ids: list[Hashable] = [Twin() if number % 2 else number for number in range(size)]
    rows = [
        record(
            identity,
            rank=number % 10_000,
            host=f"h{number % 100}",
            inputs=tuple(ids[max(0, number - 3) : number]),
        )
        for number, identity in enumerate(ids)
    ]
    data = execution_graph(Run(rows))
    assert (len(data["nodes"]), len(data["edges"])) == (size, 3 * size - 6)
    assert len({node["id"] for node in data["nodes"]}) == size
    assert len(timeline(Run(rows))) == size
    assert to_dot(data).count("\n") > 4 * size
    assert to_mermaid(data).count("\n") > 4 * size
    assert len(to_cytoscape(data)["elements"]["nodes"]) == size + 10_000
    assert len(to_networkx(data)) == size
