"""Filters of different costs on the tiles of real pictures, and a comparison of what they find.

    python -m handoff_mpi run -n 4 examples/images.py                 # or: -- --tiles 6 --out DIR a.jpg b.jpg c.jpg

Shows: costs, a function that has a variant for GPUs, tiles that go from rank to rank, files as output. Each picture
is cut into tiles with a halo; the tiles put together must equal the filter of the whole picture. All sums are whole
numbers, so any number of ranks and tiles, with GPUs or without, gives the same figures.

What the costs say: ``smooth`` and ``check`` use two threads and claim two of a host's cores, so that nothing else is
placed on those meanwhile; a job whose hosts have one core each is refused before anything starts (exit 3). Everything
else claims one. ``memory`` is what a call on a picture of this size takes at most; a host with 4 GB has room for them
all. The texture is computed on a GPU where a rank has one. With ``--out``, the maps and ``report.json`` are written
there, each by the rank that has it; that directory and the pictures must be the same on all ranks. Needs scikit-learn,
which brings the two default pictures, and pillow: ``pip install '.[examples]'``.
"""

import argparse
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from handoff_mpi import DAG, current_task, discover_nodes, task

SAMPLES = ("china", "flower")
HALO = 8  # pixels around a tile, as many as the widest filter takes in


@task(cost={"cpu": 1, "memory": "50MB"})
def load(path):
    """Return a picture as rows × columns × 3."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def widen(picture):
    """Return a picture with a halo that mirrors it at its borders."""
    return np.pad(picture, ((HALO, HALO), (HALO, HALO), (0, 0)), mode="symmetric")


def trim(tile, width):
    """Return a tile without its outermost pixels."""
    return tile[width : len(tile) - width, width : tile.shape[1] - width]


def grey(tile):
    """Return the brightness, 0 to 255 in whole numbers."""
    red, green, blue = (tile[..., channel].astype("int64") for channel in range(3))
    return (299 * red + 587 * green + 114 * blue) // 1000


@task(cost={"cpu": 1, "memory": "50MB"})
def cut(picture, tiles, row, column):
    """Return one of ``tiles`` × ``tiles`` tiles, and its halo."""
    top, bottom = (len(picture) * edge // tiles for edge in (row, row + 1))
    left, right = (picture.shape[1] * edge // tiles for edge in (column, column + 1))
    return widen(picture)[top : bottom + 2 * HALO, left : right + 2 * HALO].copy()


@task(cost={"cpu": 1, "memory": "100MB"})
def edges(tile):
    """Return the squared gradient of the brightness, with Sobel's operator."""
    bright = grey(trim(tile, HALO - 1))
    across, down = bright[:, 2:] - bright[:, :-2], bright[2:] - bright[:-2]
    across = across[:-2] + 2 * across[1:-1] + across[2:]
    down = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    return across**2 + down**2


@task(cost={"cpu": 2, "memory": "200MB"})
def smooth(tile):
    """Return the median of 5 × 5 pixels in each colour, in as many threads as cores were claimed."""
    channels = np.moveaxis(trim(tile, HALO - 2), 2, 0)
    with ThreadPoolExecutor(int(current_task().cores)) as pool:
        medians = list(pool.map(lambda channel: ndimage.median_filter(channel, 5), channels))
    return trim(np.stack(medians, axis=2), 2)


def window_sums(values, size):
    """Return the sums over windows of size × size, those that lie inside; of numpy's or cupy's arrays."""
    rows, columns = (length - size + 1 for length in values.shape)
    values = sum(values[start : start + rows] for start in range(size))
    return sum(values[:, start : start + columns] for start in range(size))


def local_variance(tile):
    """Return the variance of the brightness in windows of 17 × 17, times the square of their area."""
    size, bright = 2 * HALO + 1, grey(tile)
    return size**2 * window_sums(bright**2, size) - window_sums(bright, size) ** 2


@task(cost={"cpu": 1, "memory": "100MB"})
def texture(tile):
    """Return the local variance, computed by numpy."""
    return local_variance(tile)


@task(cost={"gpu": 1, "memory": "100MB"})
def texture_on_gpu(tile):
    """Return the local variance, computed by cupy on the device that was claimed."""
    import cupy

    return cupy.asnumpy(local_variance(cupy.asarray(tile)))


@task
def join(rows):
    """Return the map of a whole picture, from its tiles."""
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


@task(cost={"cpu": 2, "memory": "300MB"})
def check(picture, maps):
    """Compare each map with the filter of the whole picture, and return their names."""
    whole = widen(picture)
    for kind, one in (("edges", edges), ("smooth", smooth), ("texture", texture)):
        if not np.array_equal(maps[kind], one(whole)):
            raise ArithmeticError(f"the tiles of {kind} differ from the filter of the whole picture")
    return list(maps)


@task(cost={"cpu": 1, "memory": "50MB"})
def features(tile, maps):
    """Return the sums of one tile, and its histogram of 4 × 4 × 4 colours."""
    red, green, blue = np.moveaxis(maps["smooth"] // 64, 2, 0)
    noise = np.abs(grey(trim(tile, HALO)) - grey(maps["smooth"]))
    return {
        "pixels": noise.size,
        "edges": int(maps["edges"].sum()),
        "texture": int(maps["texture"].sum()),
        "noise": int(noise.sum()),
        "colours": np.bincount((16 * red + 4 * green + blue).ravel(), minlength=64),
    }


@task
def profile(parts):
    """Return the features of a picture from those of its tiles."""
    pixels, area = sum(part["pixels"] for part in parts), (2 * HALO + 1) ** 2
    return {
        "pixels": pixels,
        "edges": (sum(part["edges"] for part in parts) / pixels) ** 0.5,
        "texture": (sum(part["texture"] for part in parts) / pixels) ** 0.5 / area,
        "noise": sum(part["noise"] for part in parts) / pixels,
        "colours": (sum(part["colours"] for part in parts) / pixels).tolist(),
    }


@task
def report(profiles, checked, out):
    """Print the table, write it to ``out`` if there is one, and return its figures."""
    pairs = itertools.combinations(profiles, 2)
    likeness = {pair: sum(map(min, *(profiles[name]["colours"] for name in pair))) for pair in pairs}
    lines = [f"{'picture':16}    pixels     edges   texture     noise"]
    for name, one in profiles.items():
        lines += [f"{name:16}{one['pixels']:10}{one['edges']:10.4f}{one['texture']:10.4f}{one['noise']:10.4f}"]
    lines += [f"{first} and {second} share {share:.2%} of their colours" for (first, second), share in likeness.items()]
    lines += [f"{sum(map(len, checked))} maps, put together from tiles, equal the filters of the whole pictures"]
    print("\n".join(lines), flush=True)
    figures = {"pictures": profiles, "likeness": [[*pair, share] for pair, share in likeness.items()]}
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "report.json").write_text(json.dumps(figures, indent=2))
    return figures


@task(cost={"cpu": 1, "memory": "100MB"})
def save(values, path):
    """Write a map as a picture, brightest where it is largest, and return its path; doing it again changes nothing."""
    if values.dtype != np.uint8:
        values = (255 * np.sqrt(values / max(1, values.max()))).astype(np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def filtered(picture, tiles, filters):
    """Add one picture's tiles, and return its maps by kind and its profile."""
    parts, found = {kind: [[None] * tiles for _ in range(tiles)] for kind in filters}, []
    for row, column in itertools.product(range(tiles), repeat=2):
        tile = cut(picture, tiles, row, column)
        maps = {kind: one(tile) for kind, one in filters.items()}
        for kind in filters:
            parts[kind][row][column] = maps[kind]
        found.append(features(tile, maps))
    return {kind: join(rows) for kind, rows in parts.items()}, profile(found)


def samples():
    """Return the pictures that come with scikit-learn, which need not be imported for that."""
    return [Path(distribution("scikit-learn").locate_file(f"sklearn/datasets/images/{name}.jpg")) for name in SAMPLES]


def options(args):
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="images.py")
    parser.add_argument("--tiles", type=int, default=3, help="tiles along each side of a picture")
    parser.add_argument("--out", type=lambda path: str(Path(path).absolute()), help="a directory for what is found")
    parser.add_argument("pictures", nargs="*", type=Path, help="by default those that come with scikit-learn")
    chosen = parser.parse_args(args)
    chosen.pictures = chosen.pictures or samples()
    if chosen.tiles < 1:
        parser.error("--tiles must be at least 1")
    if len({path.stem for path in chosen.pictures}) < len(chosen.pictures):
        parser.error("the pictures must have different names")
    return chosen


def build(args):
    """Return the DAG of the given pictures in ``--tiles`` × ``--tiles`` tiles."""
    chosen = options(args)
    has_gpu = any(offered.get("gpu", 0) >= 1 for offered in discover_nodes().values())
    filters = {"edges": edges, "smooth": smooth, "texture": texture_on_gpu if has_gpu else texture}
    profiles, checked = {}, []
    with DAG("images") as dag:
        for path in chosen.pictures:
            picture = load(str(path.absolute()))
            maps, profiles[path.stem] = filtered(picture, chosen.tiles, filters)
            checked.append(check(picture, maps))
            for kind in maps if chosen.out else ():
                save(maps[kind], str(Path(chosen.out) / f"{path.stem}-{kind}.png"))
        report(profiles, checked, chosen.out)
    return dag
