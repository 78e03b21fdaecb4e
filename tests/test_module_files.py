"""The text of modules' files: on hosts that lack them, and for a fresh Python that multiprocessing starts."""

from __future__ import annotations

import inspect
import sys
import types

import pytest

from handoff_mpi import module_files
from handoff_mpi.module_files import MAX_SOURCE_NBYTES, missing_sources, pack, read_text, restart, take_sources

TEXT = "VALUE = 3\ndef twice(x):\n    return 2 * x\n"


@pytest.fixture(autouse=True)
def nothing_taken(monkeypatch):
    monkeypatch.setattr(module_files, "_texts", {})
    monkeypatch.setattr(module_files, "_packed", {})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "odd name.py"
    path.write_text(TEXT)
    return path


def test_a_host_that_lacks_a_file_has_its_text(file):
    packed = pack({str(file): "odd"})
    take_sources(packed)
    assert missing_sources() == {}, "it is here"
    file.unlink()
    assert read_text("odd", str(file)) is None
    take_sources(packed)
    assert (missing_sources(), read_text("odd", str(file))) == (packed, TEXT)


def test_texts_that_are_too_long_or_no_text_do_not_travel(tmp_path):
    texts = {"long": "".join(f"x{number * 7919 % 1000003} = 1\n" for number in range(40_000)), "empty": ""}
    files = {str(tmp_path / f"{name}.py"): name for name in (*texts, "missing", "binary")}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    assert pack({**files, "<stdin>": "typed"}) == {}
    assert len(texts["long"]) > MAX_SOURCE_NBYTES


def test_a_fresh_python_fills_the_module_from_the_file_or_from_its_text(file, monkeypatch):
    for text in (None, TEXT):
        module = types.ModuleType("odd")
        monkeypatch.setitem(sys.modules, "odd", module)
        restart(vars(module), str(file), text)
        assert (module.VALUE, module.twice(4), module.__file__) == (3, 8, str(file))
        assert inspect.getsource(module.twice).startswith("def twice")
        file.unlink(missing_ok=True)


def test_functions_of_a_module_that_cannot_be_executed_raise_the_reason(file):
    file.write_text("1 / 0\n")
    module = types.ModuleType("odd")
    restart(vars(module), str(file), None)
    with pytest.raises(ImportError, match=r"twice is not there: .*odd name\.py cannot be executed: ZeroDivisionError"):
        module.twice(4)
    with pytest.raises(AttributeError):
        _ = module.__wrapped__


def test_a_module_is_made_findable_only_where_no_import_would_find_it(file, monkeypatch):
    added = []
    monkeypatch.setattr(module_files, "add_private_directory", added.append)
    for name, path in (("a.b", file), ("__main__", file), ("odd", "<stdin>"), ("module_files", module_files.__file__)):
        module_files.make_findable(name, str(path))
    assert added == []
    module_files.make_findable("odd", str(file))
    (directory,) = added
    monkeypatch.setattr(sys, "path", [*sys.path, directory])
    module_files.make_findable("odd", str(file))
    assert added == [directory], "once is enough"
    found = types.ModuleType("odd")
    with open(f"{directory}/odd.py") as finder:  # noqa: PTH123
        exec(finder.read(), vars(found))
    assert found.twice(5) == 10
