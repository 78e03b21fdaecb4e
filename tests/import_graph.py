"""The graph of imports between the modules of a package, read from its source: all imports count.

An import under TYPE_CHECKING and one inside a function close a circle as well: the two modules cannot be understood,
typed or tested one without the other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import networkx as nx

from tests.source_facts import facts_of


def import_graph(package: Path) -> nx.DiGraph:
    """Return the modules of ``package`` (a directory) with an edge from each module to each one that it imports."""
    paths = dict(sorted((_module_name(path, package), path) for path in package.rglob("*.py")))
    graph = nx.DiGraph()
    graph.add_nodes_from(paths)
    for name, path in paths.items():
        imported = set(_imported_names(facts_of(path).imports, paths))
        graph.add_edges_from((name, each) for each in sorted(imported & paths.keys()))
    return graph


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    return sorted(sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1)


def _module_name(path: Path, package: Path) -> str:
    parts = (package.name, *path.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported_names(imports: Iterable[ast.Import | ast.ImportFrom], modules: dict[str, Path]) -> Iterator[str]:
    """Yield the names of modules; ``from a import b`` imports ``a.b`` if that is a module, else ``a``."""
    for node in imports:
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        else:
            assert not node.level, "the package has absolute imports alone"
            names = [f"{node.module}.{each.name}" for each in node.names]
            yield from (name if name in modules else str(node.module) for name in names)
