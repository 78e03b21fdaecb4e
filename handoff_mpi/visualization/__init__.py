"""Draws a run from its records, for networkx, Graphviz, Mermaid and Cytoscape."""

from handoff_mpi.visualization.graph import (
    GraphData,
    RunRecords,
    execution_graph,
    timeline,
    to_cytoscape,
    to_dot,
    to_mermaid,
    to_networkx,
)

__all__ = [
    "GraphData",
    "RunRecords",
    "execution_graph",
    "timeline",
    "to_cytoscape",
    "to_dot",
    "to_mermaid",
    "to_networkx",
]
