"""An index of words and sizes over the source files of the running Python's own standard library.

    python -m handoff_mpi run -n 4 examples/quickstart.py            # or: -- json asyncio   (some packages only)

Shows: mapping over real files, reducing in a tree, a report at the end; functions with costs.
"""

import re
import sysconfig
from collections import Counter
from pathlib import Path

from handoff_mpi import DAG, task

WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]{2,}")
PACKAGES = ("asyncio", "collections", "concurrent", "email", "html", "http", "importlib", "json", "logging", "xml")


@task(cost={"cpu": 1, "memory": "50MB"})
def index(paths):
    """Return the words of some files and how often they occur, and each file's lines and bytes."""
    words, sizes = Counter(), {}
    for path in paths:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        words.update(WORD.findall(text))
        sizes[path] = (text.count("\n"), len(text.encode()))
    return words, sizes


@task
def merge(parts):
    """Return some indices as one."""
    words, sizes = Counter(), {}
    for more_words, more_sizes in parts:
        words.update(more_words)
        sizes.update(more_sizes)
    return words, sizes


@task
def report(merged):
    """Print the table, and return its figures."""
    words, sizes = merged
    lines, nbytes = sum(size[0] for size in sizes.values()), sum(size[1] for size in sizes.values())
    out = [f"{len(sizes)} files, {lines} lines, {nbytes} bytes, {len(words)} different words"]
    out += [f"{count:9d}  {word}" for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:8]]
    biggest = sorted(sizes.items(), key=lambda item: (-item[1][1], item[0]))[:5]
    out += [f"{size[1]:9d}  bytes in {Path(path).name}" for path, size in biggest]
    print("\n".join(out), flush=True)
    return {"files": len(sizes), "lines": lines, "bytes": nbytes, "words": words.most_common(8)}


def sources(packages):
    """Return the standard library's own modules, and those of some of its packages, as strings."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [] if packages else sorted(root.glob("*.py"))
    for package in packages or PACKAGES:
        files += sorted((root / package).rglob("*.py"))
    return [str(file) for file in files]


def build(args):
    """Return the DAG: one function for every few files, a tree of merges, a report."""
    files = sources(args)
    if not files:
        raise ValueError(f"the standard library has no sources of {', '.join(args)}")
    with DAG("quickstart") as dag:
        parts = [index(files[start : start + 6]) for start in range(0, len(files), 6)]
        while len(parts) > 1:
            parts = [merge(parts[start : start + 8]) for start in range(0, len(parts), 8)]
        report(parts[0])
    return dag
