"""The error of a file that holds no DAG names what it holds instead, and where in it one is made."""

from __future__ import annotations

import pytest

from handoff_mpi import cli
from handoff_mpi.errors import EXIT_USAGE

HEAD = "from handoff_mpi import DAG, Function, task\nimport handoff_mpi as handoff\n"
MAKES = 'with DAG("d") as dag:\n        dag.add_function(Function("a", (), abs, [-1]))\n'

HINTS = {
    "a block for scripts": (
        f'if __name__ == "__main__":\n    {MAKES}    handoff.execute(dag)\n',
        "the block `if __name__ == '__main__'` in line 3 runs in scripts alone; make the DAG above it",
    ),
    "the same, the other way round": (
        "if '__main__' == __name__:\n    dag = handoff.DAG()\n",
        "the block `if __name__ == '__main__'` in line 3 runs in scripts alone; make the DAG above it",
    ),
    "a block that calls main": (
        f"def main():\n    {MAKES}    handoff.execute(dag)\nif __name__ == '__main__':\n    main()\n",
        "the block `if __name__ == '__main__'` in line 7 runs in scripts alone",
    ),
    "a function": (
        f"def pipeline(args):\n    {MAKES}    return dag\n",
        "pipeline() in line 3 makes one, but nothing calls it; make that `def build(args)` that returns it, or name it "
        "as d.py:pipeline",
    ),
    "another name": ("graph = DAG('d')\n", "no DAG named dag; it holds the DAG graph: name one as d.py:graph"),
    "two of them": ("one = DAG()\ntwo = DAG()\n", "it holds the DAGs one, two: name one as d.py:one"),
    "a list": ("dag = [1]\n", "its dag is of the class list, not a DAG; make it `dag = DAG(...)`"),
    "none": ("dag = None\n", "its dag is None; make it `dag = DAG(...)`"),
    "nothing": ("x = 1\n", "define `dag = DAG(...)` or `def build(args)` in it, or name one as d.py:NAME"),
    "a block without one": ("if __name__ == '__main__':\n    print(1)\n", "define `dag = DAG(...)` or"),
    "build without return": (f"def build(args):\n    {MAKES}", "returned None, not a DAG; end it with `return dag`"),
    "an unknown option": ("f = Function('a', cose=1)\n", "d.py, line 3: Function('a') got unknown option cose; "),
    "one of a task": ("task(timout=1)(\n    abs)\n", "d.py, line 3: task("),
    "one in build": ("def build(args):\n    task(abs).options(naem=1)\n", "d.py, line 4: task("),
    "no id": ("DAG('x').add_function(3)\n", "d.py, line 3: DAG 'x': add_function takes a Function, not 3"),
}


@pytest.mark.parametrize("case", HINTS)
@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_file_without_a_dag(verb, case, in_process, tmp_path, capsys):
    text, hint = HINTS[case]
    (tmp_path / "d.py").write_text(HEAD + text)
    assert cli.main([verb, "d.py"]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert hint in said and said.count("\n") == 1, said
    assert not (tmp_path / "handoff-runs").exists()


TARGETS = {
    "d.py:grpah": "d.py holds no 'grpah'; did you mean graph?",
    "d.py:zzz": "d.py holds no 'zzz'; it holds the DAGs graph, other",
    "d.p": "d.p does not exist; did you mean d.py?",
    "d": "d does not exist; did you mean d.py?",
    "D.py": "D.py does not exist; did you mean d.py?",
    "nothing-like-it.py": "nothing-like-it.py does not exist; name the Python file that holds the DAG",
    "e/d.py": "e/d.py does not exist; name the Python file",
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_is_not_there(target, in_process, tmp_path, capsys):
    (tmp_path / "d.py").write_text(HEAD + "graph = DAG('d')\nother = DAG('e')\n")
    assert cli.main(["check", target]) == EXIT_USAGE
    assert TARGETS[target] in capsys.readouterr().err
