"""Values that are kept though their functions have changed, and what --rerun replaces of what they were made of."""

from __future__ import annotations

import pytest

from handoff_mpi import DAG, Function, cli, execute_local, load


@pytest.fixture
def work(tmp_path):
    return Work(tmp_path)


class Work:
    """Runs DAGs of functions that add what they take and a number that is in a file, and note that they are called."""

    def __init__(self, directory):
        self.run_dir = directory / "run"
        self._files = self._data, self._calls, self._fails = [directory / name for name in ("data", "calls", "fails")]

    def adding(self, name):
        data, calls, fails = self._files

        def added(*values, plus=0):
            with calls.open("a") as file:
                file.write(name + " ")
            if name in fails.read_text():
                raise ValueError("fails")
            return sum(values) + plus + int(data.read_text())

        return added

    def run(self, data, *rows, fails="", **options):
        """Run a DAG of (id, ids of inputs, a constant, and if it is an array its elements: constants, or ids).

        Returns:
            The values, those of an array as a list, and the sorted names of what was called.
        """
        dag, handles = DAG("d"), {}
        for id, inputs, constant, *elements in rows:
            if elements:
                each = [handles.get(element, element) for element in elements[0]]
                fixed = {"plus": handles.get(inputs, constant)}
                handles[id] = dag.map(self.adding(id), each, fixed=fixed, id=id, version=str(constant))
            else:
                handles[id] = dag.add_function(Function(id, [*inputs], self.adding(id), [constant]))
        for file, text in zip(self._files, (str(data), "", fails), strict=True):
            file.write_text(text)
        options = {"run_dir": self.run_dir, "keep": "all", "check": False, "max_retries": 0, **options}
        results = execute_local(dag, **options)
        values = [[*results[id]] if elements else results.get(id) for id, _, _, *elements in rows]
        return values, "".join(sorted(self._calls.read_text().split()))


A, OLD, NEW = ("a", "", 0), ("b", "a", 0), ("b", "", 1)
KEPT = {"rerun": ["a"], "accept_changes": ["b"]}


def test_what_was_made_of_what_rerun_replaces_is_not_kept_though_its_change_is_accepted(work, capsys):
    assert work.run(1, A, OLD) == ([1, 2], "ab")
    assert work.run(5, A, NEW, **KEPT) == ([5, 6], "ab")
    said = capsys.readouterr().err
    assert "--rerun replaces what its value was made of: 1 function runs again" in said
    assert "accept" not in said, "that has no effect on it"
    assert work.run(7, A, NEW) == ([5, 6], "")
    assert work.run(7, A, OLD) == ([5, 12], "b")


def test_what_was_made_of_it_by_way_of_others_is_not_kept_either(work):
    assert work.run(1, A, ("x", "a", 0), ("b", "x", 0), ("c", "b", 0)) == ([1, 2, 3, 4], "abcx")
    assert work.run(5, A, NEW, ("c", "b", 0), rerun=["a"], accept_changes=["b", "c"]) == ([5, 6, 11], "abc")
    assert work.run(7, A, ("c", "b", 0), ("b", "x", 0), ("x", "a", 0)) == ([5, 26, 19, 12], "bcx")


def test_what_was_accepted_before_is_not_kept_for_good(work):
    """Once its function has run, that counts."""
    behind = ("c", "b", 0)
    work.run(1, A, OLD)
    assert work.run(3, A, NEW, behind, accept_changes=["b"]) == ([1, 2, 5], "c")
    assert work.run(5, A, NEW, behind, rerun=["a"], fails="b") == ([5, None, None], "ab")
    assert work.run(7, A, NEW, behind) == ([5, 8, 15], "bc")
    assert work.run(9, A, NEW, behind, accept_changes=["b"]) == ([5, 8, 15], "")
    assert work.run(9, A, OLD, behind) == ([5, 14, 23], "bc")


def test_what_took_an_accepted_value_there_counts_no_more_once_that_is_replaced(work):
    """Its fingerprint is the same in both launches, as what it takes went by the earlier one."""
    behind = ("c", "b", 0)
    work.run(1, A, OLD)
    assert work.run(3, A, NEW, behind, accept_changes=["b"]) == ([1, 2, 5], "c")
    assert work.run(5, A, rerun=["a"]) == ([5], "a")
    assert work.run(7, A, OLD, behind) == ([5, 12, 19], "bc")


def test_elements_are_kept_that_took_nothing_of_what_rerun_replaces(work):
    pair = A, ("d", "", 0)
    assert work.run(1, *pair, ("b", "", 0, ["a", "d", 7])) == ([1, 1, [2, 2, 8]], "abbbd")
    assert work.run(5, *pair, ("b", "", 2, ["a", "d", 7]), **KEPT) == ([5, 1, [12, 2, 8]], "ab")
    assert work.run(7, *pair, ("b", "", 3, [9, "d", 7]), **KEPT) == ([7, 1, [19, 11, 17]], "abbb")
    assert [*load(work.run_dir)["b"]] == [19, 11, 17]


def test_elements_that_took_it_all_together_are_not_kept(work):
    assert work.run(1, A, ("b", "a", 0, [1, 2])) == ([1, [3, 4]], "abb")
    assert work.run(5, A, ("b", "", 2, [1, 2]), **KEPT) == ([5, [8, 9]], "abb")
    assert work.run(7, A, ("b", "", 2, [1, 2])) == ([5, [8, 9]], "")


def test_elements_that_took_it_by_itself_and_all_together_are_not_kept(work):
    assert work.run(1, A, ("b", "a", 0, ["a", 2])) == ([1, [3, 4]], "abb")
    assert work.run(5, A, ("b", "", 2, ["a", 2]), **KEPT) == ([5, [12, 9]], "abb")


def test_a_function_that_ran_with_an_accepted_change_runs_again_also_as_it_was(work):
    """Its fingerprint is that of before the change."""
    work.run(1, A, NEW)
    assert work.run(3, A, OLD, rerun=["b"], accept_changes=["b"]) == ([1, 4], "b")
    assert work.run(5, A, NEW) == ([1, 4], ""), "as the user has accepted"
    behind = ("c", "b", 0)
    for again in ({"rerun": ["a"]}, {}):
        assert work.run(7, A, NEW, behind, **again) == ([7, 8, 15], "abc" if again else "")
    assert work.run(8, A, OLD, behind, rerun=["b"], accept_changes=["b"]) == ([7, 15, 23], "bc")
    assert work.run(9, A, NEW, behind, **KEPT) == ([9, 10, 19], "abc"), "it has not changed"


def test_a_value_made_of_other_functions_is_kept_as_it_was(work):
    assert work.run(1, A, ("d", "", 0), ("b", "d", 0)) == ([1, 1, 2], "abd")
    assert work.run(5, A, NEW, **KEPT) == ([5, 2], "a")


def test_a_launch_tells_what_runs_as_an_earlier_one_dropped_its_value(work, capsys):
    rows = A, OLD, ("xs", "", 0, ["a", 1]), ("ys", "a", 0, [1])
    assert work.run(1, *rows) == ([1, 2, [2, 2], [3]], "abxsxsys")
    assert work.run(5, A, rerun=["a"]) == ([5], "a")
    capsys.readouterr()
    assert work.run(7, *rows) == ([5, 12, [12, 8], [13]], "bxsxsys")
    why = "--rerun of launch 2 replaced what its value was made of"
    assert f"handoff: {why}: 1 function and 3 elements of 2 arrays run again" in capsys.readouterr().err
    for id in ("b", "ys"):
        assert cli.main(["explain", str(work.run_dir), id]) == 0
        assert f": {why}.\n" in capsys.readouterr().out
    assert work.run(9, *rows) == ([5, 12, [12, 8], [13]], "")
    assert "--rerun" not in capsys.readouterr().err
