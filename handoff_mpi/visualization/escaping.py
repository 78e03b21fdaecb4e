"""Text of anybody's as strings of DOT and of Mermaid, which show it and do nothing else with it."""

from __future__ import annotations

import re


def visible(text: str) -> str:
    """Return ``text`` with what cannot be printed (control characters, lone surrogates) as Python escapes."""
    if text.isprintable():
        return text
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)
    return "".join(shown)


def dot_string(text: str) -> str:
    """Return a DOT string that Graphviz shows as ``text``."""
    shown = visible(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    # In labels Graphviz reads HTML's entities; a lone & is one to itself.
    return '"' + re.sub(r"&(?=#?\w+;)", "&amp;", shown) + '"'


# What Mermaid's language, its HTML or its Markdown ("1. x", "__x__") may read as something else: anything but
# letters, digits, commas, what joins two letters, and single spaces.
_JOINS = "[-_./=+]"
_MERMAID_SPECIAL = re.compile(rf"[^\w ,./=+-]|(?<![^\W_]){_JOINS}|{_JOINS}(?![^\W_])|^ | (?= )")


def mermaid_string(text: str) -> str:
    """Return a quoted Mermaid label that shows as ``text``."""
    lines = (_MERMAID_SPECIAL.sub(lambda m: f"#{ord(m[0])};", line) for line in visible(text).split("\n"))
    return '"' + ("<br/>".join(lines) or " ") + '"'
