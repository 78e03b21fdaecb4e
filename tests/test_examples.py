"""The examples, run for real and compared with independent computations."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, missing, run_process

EXAMPLES = ROOT / "examples"
SMALL_HOST = {"HANDOFF_CORES": "2", "HANDOFF_MEMORY": "4GB"}


def needs(**modules):
    """Skip, or in CI fail, unless the modules can be imported; each comes with the name to install."""
    for module, name in modules.items():
        if importlib.util.find_spec(module) is None:
            missing(name)


def test_quickstart_counts_what_is_there(handoff):
    ended = handoff("run", "-n", "4", EXAMPLES / "quickstart.py", "--", "json", "asyncio")
    assert ended.rc == 0, ended.err
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [file for name in ("json", "asyncio") for file in (root / name).rglob("*.py")]
    texts = [file.read_text(errors="replace") for file in files]
    words = Counter(word for text in texts for word in re.findall(r"[A-Za-z_][A-Za-z_0-9]{2,}", text))
    nbytes = sum(len(text.encode()) for text in texts)
    assert f"{len(files)} files" in ended.out
    assert f"{nbytes} bytes, {len(words)} different words" in ended.out
    word, count = min(words.items(), key=lambda item: (-item[1], item[0]))
    assert f"{count:9d}  {word}" in ended.out


@pytest.mark.long
@pytest.mark.sample("here", "ranks")
@pytest.mark.parametrize(
    "words",
    [[], ["-n", "4"], ["-n", "3", "--allocation-strategy", "cost_optimized"]],
    ids=["here", "ranks", "strategy"],
)
def test_cholesky_agrees_with_numpy(handoff, words):
    ended = handoff("run", *words, EXAMPLES / "cholesky.py")
    assert ended.rc == 0, ended.err
    assert "384 x 384 in 6 x 6 tiles agrees with numpy" in ended.out


@pytest.mark.long
def test_cholesky_under_a_bare_mpirun(mpirun):
    ended = mpirun(4, "-m", "handoff_mpi", "run", EXAMPLES / "cholesky.py", "--", "--tiles", "5", "--size", "80")
    assert ended.rc == 0, ended.err
    assert "400 x 400 in 5 x 5 tiles agrees with numpy" in ended.out


@pytest.mark.long
@pytest.mark.sample("cholesky.py")
@pytest.mark.parametrize("example", ["cholesky.py", "quickstart.py"])
def test_under_mpich_as_in_one_process(tmp_path, example):
    mpiexec = os.environ.get("HANDOFF_TEST_MPICH")
    if not mpiexec:
        missing("MPICH in another environment, its mpiexec named by HANDOFF_TEST_MPICH,")
    command = [Path(mpiexec).parent / "python", "-m", "handoff_mpi", "run", EXAMPLES / example]
    ended, alone = run_process([mpiexec, "-n", "4", *command], tmp_path, 90), run_process(command, tmp_path)
    assert ended.rc == 0, ended.err
    assert ended.out == alone.out != ""


@pytest.mark.parametrize("ranks", [1, pytest.param(4, marks=pytest.mark.long)])
def test_script(mpirun, tmp_path, ranks):
    script = EXAMPLES / "script.py"
    ended = run_process([sys.executable, script], tmp_path) if ranks == 1 else mpirun(ranks, script)
    assert ended.rc == 0, ended.err
    assert "sum of squares: 328350" in ended.out


@pytest.fixture(scope="module")
def searched():
    """The result of scikit-learn's own search on the split that the id of the example's function seeds."""
    needs(sklearn="scikit-learn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
    from sklearn.svm import SVC

    seed = int.from_bytes(hashlib.sha256(b"'load'").digest()[:8], "little") % 2**32
    pixels, labels = load_digits(return_X_y=True)
    x, held_x, y, held_y = train_test_split(pixels / 16, labels, test_size=0.2, stratify=labels, random_state=seed)
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    grid = {"C": [0.1, 100.0], "gamma": [0.001, 1.0]}
    search = GridSearchCV(SVC(), grid, cv=folds, refit=False).fit(x, y)
    found = {}
    for chosen, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
        held_out = SVC(**chosen).fit(x, y).score(held_x, held_y)
        found[f"C={chosen['C']:.4g} gamma={chosen['gamma']:.4g}"] = (score, held_out)
    return found


@pytest.mark.long
@pytest.mark.sample("run -n 4")
@pytest.mark.parametrize("launch", [[], ["-n", "4"]], ids=["one process", "run -n 4"])
def test_digits_finds_what_scikit_learn_finds(handoff, searched, launch):
    words = [EXAMPLES / "digits.py", "--", "--grid", "2", "--folds", "3"]
    ended = handoff("run", *launch, *words, env=SMALL_HOST)
    assert ended.rc == 0, ended.err
    head, (*_, low, high), *rows, best, held_out = [line.split() for line in ended.out.splitlines()]
    assert " ".join(head) == "mean accuracy in 3 folds of 1437 digits"
    means = {}
    for c, at_low, at_high in rows:
        means.update({f"C={c} gamma={low}": float(at_low), f"C={c} gamma={high}": float(at_high)})
    assert means == pytest.approx({name: score for name, (score, _) in searched.items()}, abs=6e-5)
    score, accuracy = searched[" ".join(best[1:3])]
    assert score == pytest.approx(max(score for score, _ in searched.values()), abs=1e-9)
    assert " ".join(held_out) == f"held out: {accuracy:.4f} of 360 digits"


@pytest.fixture(scope="module")
def filtered():
    """Maps and figures of whole pictures, with scipy's filters and numpy's histogram."""
    needs(sklearn="scikit-learn", PIL="pillow", scipy="scipy")
    import sklearn
    from PIL import Image
    from scipy import ndimage

    maps, figures = {}, {}
    for name in ("china", "flower"):
        with Image.open(Path(sklearn.__file__).parent / "datasets" / "images" / f"{name}.jpg") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        smooth = ndimage.median_filter(pixels, size=(5, 5, 1))
        bright, calm = (values.astype(int) @ [299, 587, 114] // 1000 for values in (pixels, smooth))
        edges = np.hypot(*(ndimage.sobel(bright, axis).astype(float) for axis in (0, 1)))
        squares, mean = (ndimage.uniform_filter(values.astype(float), 17) for values in (bright**2, bright))
        deviation = np.sqrt(np.maximum(squares - mean**2, 0))
        colours, _ = np.histogramdd(smooth.reshape(-1, 3), bins=4, range=[(0, 256)] * 3)
        maps[name] = {"smooth": smooth, "edges": 255 * edges / edges.max()}
        maps[name]["texture"] = 255 * deviation / deviation.max()
        figures[name] = {
            "pixels": bright.size,
            "edges": np.sqrt(np.mean(edges**2)),
            "texture": np.sqrt(np.mean(deviation**2)),
            "noise": np.mean(np.abs(bright - calm)),
            "colours": colours.ravel() / bright.size,
        }
    return maps, figures


def assert_as_filtered(ended, out, filtered):
    """The table, the report and the maps are those of the whole pictures."""
    from PIL import Image

    maps, figures = filtered
    assert ended.rc == 0, ended.err
    assert "6 maps, put together from tiles, equal the filters of the whole pictures" in ended.out
    report = json.loads((out / "report.json").read_text())
    for name, expected in figures.items():
        for key, value in expected.items():
            assert report["pictures"][name][key] == pytest.approx(value, rel=1e-7), (name, key)
        row = [f"{expected[key]:.4f}" for key in ("edges", "texture", "noise")]
        assert [name, str(expected["pixels"]), *row] in [line.split() for line in ended.out.splitlines()]
        for kind, values in maps[name].items():
            with Image.open(out / f"{name}-{kind}.png") as picture:
                assert np.abs(np.asarray(picture) - values.astype(float)).max() <= (0 if kind == "smooth" else 1)
    share = np.minimum(figures["china"]["colours"], figures["flower"]["colours"]).sum()
    assert report["likeness"] == [["china", "flower", pytest.approx(share)]]
    assert f"china and flower share {share:.2%} of their colours" in ended.out


@pytest.mark.long
@pytest.mark.sample("run -n 4")
@pytest.mark.parametrize("launch", [[], ["-n", "4"]], ids=["one process", "run -n 4"])
def test_images_are_filtered_as_a_whole(handoff, tmp_path, filtered, launch):
    ended = handoff("run", *launch, EXAMPLES / "images.py", "--", "--out", "found", env=SMALL_HOST)
    assert_as_filtered(ended, tmp_path / "found", filtered)


@pytest.mark.long
def test_images_use_the_gpu_that_ranks_have(mpirun, tmp_path, filtered):
    # Stands in for cupy, and leaves a trace of each use.
    (tmp_path / "cupy.py").write_text(
        "from numpy import asarray\n\n\ndef asnumpy(array):\n    open('used', 'a').write('.')\n    return array\n"
    )
    env = {**SMALL_HOST, "HANDOFF_GPUS": "1", "PYTHONPATH": str(tmp_path)}
    words = [EXAMPLES / "images.py", "--", "--tiles", "2", "--out", "found"]
    ended = mpirun(3, "-m", "handoff_mpi", "run", *words, env=env)
    assert_as_filtered(ended, tmp_path / "found", filtered)
    assert len((tmp_path / "used").read_text()) == 2 * 2 * 2


@pytest.mark.long
@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.sample("gpu")
def test_plates_agree_with_numpy_on_either_device(mpirun, tmp_path, device):
    (tmp_path / "cupy.py").write_text("from numpy import asarray, ascontiguousarray\n")  # stands in for cupy
    env = {"HANDOFF_CORES": "4", "HANDOFF_GPUS": "2", "PYTHONPATH": str(tmp_path)}
    words = ["--plates", "3", "--size", "30", "--steps", "20", "--device", device]
    ended = mpirun(3, "-m", "handoff_mpi", "run", EXAMPLES / "gpu.py", "--", *words, env=env)
    assert ended.rc == 0, ended.err
    lines = [line.split() for line in ended.out.splitlines() if line.startswith("    ")]
    assert [line[0] for line in lines] == ["0", "1", "2"] and all(float(line[2]) < 1e-9 for line in lines)
    where = {word for line in lines for word in line[3:]} - {"and"}
    assert where <= ({"cpu"} if device == "cpu" else {"declared-0", "declared-1"})


@pytest.mark.long
def test_images_are_refused_where_no_host_has_two_cores(handoff):
    needs(sklearn="scikit-learn", PIL="pillow", scipy="scipy")
    ended = handoff("run", EXAMPLES / "images.py", env={"HANDOFF_CORES": "1"})
    assert ended.rc == 3
    assert "function 'smooth' and 17 more need cpu=2" in ended.err
