"""Options that are unknown, missing or in the wrong unit are named before anything runs, with a suggestion."""

from __future__ import annotations

import functools
import inspect
import pydoc
from dataclasses import fields

import numpy as np
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, DAGError, Function, Unsatisfiable, UsageError, cli, task
from handoff_mpi.console import PrintedMessages
from handoff_mpi.dag.task import CallsOutside
from handoff_mpi.errors import EXIT_DONE, EXIT_FITS_NOWHERE, EXIT_USAGE
from handoff_mpi.process_context import this_process
from handoff_mpi.resources.amounts import format_nbytes

DAG_FILE = """
from handoff_mpi import DAG, Function, task
{before}
with DAG("d") as dag:
    dag.add_function(Function("fit", (), abs, [-1], {options}))
{after}
"""


@pytest.fixture
def said(in_process, tmp_path, capsys, monkeypatch):
    """Check and run a DAG; return the exit code and what is said, which must be the same."""
    monkeypatch.setitem(this_process._pieces, PrintedMessages, PrintedMessages())
    monkeypatch.setitem(this_process._pieces, CallsOutside, CallsOutside())

    def both(options="", before="", after="", *words):
        (tmp_path / "d.py").write_text(DAG_FILE.format(options=options, before=before, after=after))
        code = cli.main(["check", "d.py", *words])
        checked = capsys.readouterr().err
        monkeypatch.setitem(this_process._pieces, CallsOutside, CallsOutside())
        assert cli.main(["run", "d.py", *words]) == code
        ran = capsys.readouterr().err
        assert ran.startswith(checked)
        assert code == EXIT_DONE or ran == checked, "something ran"
        return code, checked

    return both


def one_function(**options):
    dag = DAG("d")
    dag.add_function(Function("fit", (), abs, [-1], **options))
    return dag


MISSING = {
    "cpus": ({"cpus": 4}, "cpus: 4 wanted, no rank offers any; did you mean cpu?"),
    "cores": ({"Cores": 4}, "Cores: 4 wanted, no rank offers any; did you mean cpu?"),
    "mem": ({"mem": 1}, "mem: 1 wanted, no rank offers any; did you mean memory?"),
    "ram": ({"ram": 1}, "ram: 1 wanted, no rank offers any; did you mean memory?"),
    "memroy": ({"memroy": 1}, "memroy: 1 wanted, no rank offers any; did you mean memory?"),
    "gpu": ({"gpu": 1}, "gpu: 1 wanted, no rank offers any; HANDOFF_GPUS declares some"),
    "gpus": ({"gpus": 1}, "gpus: 1 wanted, no rank offers any; did you mean gpu?"),
    "fpga": ({"fpga": 1}, "fpga: 1 wanted, no rank offers any; --resources fpga=AMOUNT or register_local_node "),
    "license": ({"license": 1}, "license: 1 wanted, no rank offers any; did you mean licence?"),
    "percent": ({"cpu": 200}, "no rank offers more than 2; cpu is in cores, and 200 percent of a core is written as 2"),
    "millicores": (
        {"cpu": 1500},
        "no rank offers more than 2; cpu is in cores, and 1500 thousandths of a core is written as 1.5",
    ),
    "many": ({"cpu": 9999}, "cpu: 9999 wanted, no rank offers more than 2"),
    "bytes": ({"memory": 4e9}, "that is 4,000 TB (a number without a unit is in MB): if bytes were meant, write '4GB'"),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_no_rank_offers_is_named(name, said, monkeypatch):
    monkeypatch.setenv("HANDOFF_CORES", "2")
    monkeypatch.setenv("HANDOFF_MEMORY", "8GB")
    cost, line = MISSING[name]
    code, text = said(f"cost={cost!r}", "", "", "--resources", "licence=2")
    assert code == EXIT_FITS_NOWHERE
    assert text.startswith("handoff: function 'fit' needs ")
    assert line in text and text.count("\n") == 1


def test_functions_that_lack_the_same_are_counted():
    dag = DAG("d")
    for number in range(10_000):
        dag.add_function(Function(number, (), abs, [-1], cost={"cpus": 4}))
    dag.add_function(Function("both", (), abs, [-1], cost={"mem": 4, "gpu": 1}))
    with pytest.raises(Unsatisfiable) as caught:
        handoff.execute_local(dag)
    assert caught.value.problems[0].startswith("function 0 and 9,999 more need cpu=1, cpus=4, which fits no host")
    assert len(caught.value.problems) == 3


def test_a_unit_of_a_misnamed_resource():
    with pytest.raises(DAGError, match=r"mem takes no unit; did you mean memory\?"):
        one_function(cost={"mem": "2GB"}).validate()
    with pytest.raises(DAGError, match=r"memory='4Gi' .*; did you mean GiB"):
        one_function(cost={"memory": "4Gi"}).validate()


@pytest.mark.parametrize(("nbytes", "text"), [(1, "1B"), (1500, "1.5KB"), (4 * 10**15, "4,000TB"), (10**9, "1GB")])
def test_memory_in_words(nbytes, text):
    assert format_nbytes(nbytes) == text


UNKNOWN = {
    "args": (lambda: DAG("d").add_function(Function("fit", ["laod"], abs)), None),
    "function": (lambda: Function("fit", retries=3), "Function('fit') got unknown option retries; did you mean max_re"),
    "cost": (lambda: Function("fit", cpus=3), "unknown option cpus; did you mean cost={'cpu': ...}?; all: args, "),
    "task": (lambda: task(timout=3)(abs), "got unknown option timout; did you mean timeout?"),
    "options": (lambda: task(abs).options(naem="a"), "got unknown option naem; did you mean id?"),
    "start": (lambda: handoff.start(max_retrys=3), "there is no option max_retrys; did you mean max_retries?"),
    "execute": (lambda: handoff.execute(DAG(), strategy=3), "no option strategy; did you mean allocation_strategy?"),
    "setup": (lambda: handoff.execute_local(DAG(), setpu=print), "no option setpu; did you mean setup?"),
    "cluster": (lambda: handoff.Cluster(max_retries=3), "Cluster has no option max_retries; give max_retries to its "),
    "idle": (lambda: handoff.Cluster(idle_limt=3), "Cluster has no option idle_limt; did you mean idle_limit?"),
    "strategy": (lambda: handoff.start(allocation_strategy="load_balance"), "did you mean load_balanced?; there are"),
    "choice": (lambda: handoff.start(isolation="proces"), "not 'proces'; did you mean process?"),
    "type": (lambda: one_function(type="inlin").validate(), "not 'inlin'; did you mean 'inline'?"),
    "inclusion": (lambda: one_function(argument_inclusion="list").validate(), "not 'list'; did you mean 'as_list'?"),
    "event": (
        lambda: handoff.telemetry.attach("h", ("handoff", "execution", "function", "strat"), print),
        "did you mean ('handoff', 'execution', 'function', 'start')?",
    ),
    "keep": (
        lambda: handoff.execute_local(one_function(), keep=["fot"]),
        "keep names 'fot', which is not the id",
    ),
    "rerun": (lambda: handoff.execute_local(one_function(), rerun=["fot"]), "does not hold; did you mean 'fit'?"),
    "node": (lambda: one_function(node=handoff.collocated("Fit")).validate(), "collocated with; did you mean 'fit'?"),
}


@pytest.mark.parametrize("name", [name for name, (_, line) in UNKNOWN.items() if line])
def test_what_is_unknown_is_named_with_what_is_near(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    do, line = UNKNOWN[name]
    with pytest.raises(handoff.HandoffError) as caught:
        do()
    assert line in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


def test_handles_in_keyword_arguments_and_codecs_are_looked_up_too():
    for function in (
        Function("b", (), abs, [], {"x": [handoff.Handle("fti")]}),
        Function("b", [handoff.Argument("fti")], abs),
        Function("b", (), abs, [{"deep": (handoff.Handle("fti"),)}]),
    ):
        dag = one_function()
        dag.add_function(function)
        with pytest.raises(DAGError, match=r"no function 'fti', which 'b' takes; did you mean 'fit'\?"):
            dag.validate()


def test_ids_that_are_not_there(tmp_path):
    dag = one_function()
    dag.add_function(Function("load", ["fti"], abs))
    with pytest.raises(DAGError, match=r"no function 'fti', which 'load' takes; did you mean 'fit'\?"):
        dag.validate()
    with pytest.raises(KeyError) as caught:
        dag["lod"]
    assert str(caught.value) == "no function 'lod' in DAG 'd'; did you mean 'load'?"
    results = handoff.execute_local(one_function(), run_dir=tmp_path / "r")
    with pytest.raises(KeyError) as caught:
        results["fit-2"]
    assert str(caught.value) == "no function 'fit-2' in DAG 'd'; did you mean 'fit'?"


def test_equal_faults_of_many_functions_are_one_line():
    dag = DAG("d")
    for number in range(1000):
        dag.add_function(Function(number, (), abs, [-1], max_retries=-1))
    with pytest.raises(DAGError) as caught:
        dag.validate()
    assert str(caught.value).startswith("DAG 'd': functions 0 and 999 more: max_retries must be")


# -- what is allowed, and still questioned -------------------------------------------------------------


def test_a_dag_without_functions(said):
    code, text = said(after="dag = DAG('e')\n")
    assert code == EXIT_DONE
    assert text.startswith("handoff: DAG 'e' holds no functions, so nothing runs; call @task functions ")


def test_a_task_that_was_called_outside(said):
    code, text = said(before="@task\ndef double(x): return 2 * x\nassert double(2) == 4")
    assert code == EXIT_DONE
    assert text == (
        "handoff: double() at d.py:5 was called outside `with DAG()`, and ran at once; calls inside the block add "
        "functions\n"
    )


@pytest.mark.long
def test_a_time_out_in_milliseconds(said):
    assert said("timeout=3_600_000") == (
        EXIT_DONE,
        "handoff: function 'fit' has timeout=3600000, which is 42 days; it is in seconds, and None sets no limit\n",
    )
    assert said("timeout=3_600") == said("timeout=1e9") == (EXIT_DONE, "")


def test_limits_in_milliseconds(said):
    for names in (["deadline"], ["heartbeat-timeout", "grace-period", "join-limit", "tracker-timeout"]):
        code, told = said("", "", "", *(f"--{name}=3600000" for name in names))
        lines = [f"handoff: {name.replace('-', '_')}=3600000, which is 42 days; it is in seconds" for name in names]
        assert (code, sorted(told.splitlines())) == (EXIT_DONE, sorted(lines))
        assert said("", "", "", *(f"--{name}=36000" for name in names)) == (EXIT_DONE, "")


def test_costs_that_are_no_mapping():
    for given, meant in ((4, "{'cpu': 4}"), (np.float32(0.5), "{'cpu': 0.5}"), ("gpu", "{'gpu': 1}")):
        with pytest.raises(DAGError, match=r"mapping of names to amounts, not .*; did you mean") as caught:
            one_function(cost=given).validate()
        assert f"did you mean {meant}?" in str(caught.value)
    for given in (True, [4], "many"):
        with pytest.raises(DAGError, match=r"mapping of names to amounts, not [^;]*$"):
            one_function(cost=given).validate()


def test_pins_to_what_is_not_there(said):
    assert "'fit' is pinned to rank 3, but only rank 0 computes" in said("node=3")[1]
    assert "is pinned to host '0', and there is none; did you mean the rank, node=0?" in said("node='0'")[1]
    assert "is pinned to host 'elsewhere'; there is " in said("node='elsewhere'")[1]


def test_a_run_that_is_not_there(tmp_path):
    handoff.execute_local(one_function(), run_dir=tmp_path / "first-run")
    with pytest.raises(UsageError, match=r"first-rnu holds no run; did you mean first-run\?"):
        handoff.load(tmp_path / "first-rnu")


def test_resources_that_are_offered_under_another_name(said):
    line = "the resource ncpus is offered, and no function asks for it; did you mean cpu?"
    assert said("", "", "", "--resources=ncpus=2") == (EXIT_DONE, f"handoff: {line}\n")
    assert said("cost={'ncpus': 1}", "", "", "--resources=ncpus=2") == (EXIT_DONE, "")
    line = "prices names cores, which no rank offers; did you mean cpu?"
    assert said("", "", "", "--prices=cores=2", "--prices=gpu=3") == (EXIT_DONE, f"handoff: {line}\n")


UPDATES = """
def more():
    import handoff_mpi
    handoff_mpi.update_node_resources(0, {"tape": 1})
dag.add_function(Function("more", (), more))
"""


def test_resources_that_come_later_are_waited_for(said):
    line = "function 'fit' needs cpu=1, tape=1, which waits for update_node_resources: tape: 1 wanted, "
    code, text = said("cost={'tape': 1}", "", UPDATES)
    assert code == EXIT_DONE
    assert text.startswith(f"handoff: {line}no rank offers any; --resources tape=AMOUNT or register_local_node ")
    assert text.count("\n") == 1


VARIABLES = {"MAX_RETRY": "MAX_RETRIES", "RETRIES": "MAX_RETRIES", "MEM": "MEMORY", "CPUS": "CORES", "GPU": "GPUS"}


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_that_set_nothing(name, said, monkeypatch):
    monkeypatch.setenv(f"HANDOFF_{name}", "1")
    monkeypatch.setenv("HANDOFF_MY_OWN_THING", "1")
    line = f"the environment variable HANDOFF_{name} sets nothing; did you mean HANDOFF_{VARIABLES[name]}?"
    assert said() == (EXIT_DONE, f"handoff: {line}\n")


def test_memory_of_a_host_in_another_unit(said, monkeypatch):
    monkeypatch.setenv("HANDOFF_MEMORY", "16")
    what = "HANDOFF_MEMORY=16 is 16 MB for the whole host; a number without a unit is in MB: write 16GB, say"
    assert said() == (EXIT_DONE, f"handoff: {what}\n")
    monkeypatch.setenv("HANDOFF_MEMORY", "16000000000")
    code, text = said()
    assert code == EXIT_USAGE
    assert "HANDOFF_MEMORY='16000000000' is 16,000 TB" in text and "write '16GB'" in text


# -- tasks ---------------------------------------------------------------------------------------------


@task(max_retries=1)
def fit(power, *, k: int = 3) -> float:
    """Fit a curve.

    To what was measured.
    """
    return power * k


def test_help_shows_the_function():
    text = "\n".join(map(str.rstrip, pydoc.render_doc(fit, renderer=pydoc.plaintext).splitlines()))
    assert "fit(power, *, k: " in text and "Fit a curve.\n\n    To what was measured." in text
    assert "add itself" not in text
    assert repr(fit).startswith("<task fit(power, *, k: ")
    assert inspect.signature(fit) == inspect.signature(fit.code)
    assert (fit.__name__, fit.__module__, fit.__wrapped__) == ("fit", __name__, fit.code)


def test_so_it_does_of_odd_code():
    for code in (print, max, abs, np.add, lambda x: x):
        assert repr(task(code)).startswith("<task ")
        assert pydoc.render_doc(task(code))
    assert repr(task(functools.partial(pow, 2))).startswith("<task pow(")
    assert repr(task(Scale())) == "<task Scale(x)>"


class Scale:
    def __call__(self, x):
        return x


class Model:
    def __init__(self, k):
        self.k = k

    @task
    def scaled(self, x):
        return self.k * x


def test_a_method_may_be_a_task(tmp_path):
    assert Model(3).scaled(4) == 12
    with DAG("d") as dag:
        Model(3).scaled(Model(2).scaled(5))
    assert handoff.execute_local(dag, run_dir=tmp_path / "r")["scaled-2"] == 30


def test_the_constructor_of_functions_takes_every_field():
    names = [*inspect.signature(Function).parameters]
    assert names == [*[each.name for each in fields(Function)], "unknown"]


# -- numbers of numpy ----------------------------------------------------------------------------------


def test_numbers_of_numpy_go_wherever_numbers_go(tmp_path):
    dag = DAG("d")
    options = {"max_retries": np.int64(3), "timeout": np.float32(9), "priority": np.int8(1), "node": np.int64(0)}
    options |= {"retry_delay": np.float32(0.5), "writable": np.bool_(True)}
    cost = {"cpu": np.int32(1), "memory": np.float32(1.5), "tape": np.uint8(1)}
    dag.add_function(Function(np.int64(3), (), abs, [-3], cost=cost, **options))
    dag.add_function(Function("next", [3], abs, node=handoff.collocated(np.int64(3))))
    run = {
        "max_retries": np.int64(3),
        "slots": np.int16(1),
        "grace_period": np.float32(1),
        "max_concurrency": np.uint8(1),
    }
    run |= {"cache_size": np.int64(10), "resources": {"tape": np.int8(2)}, "prices": {"cpu": np.float32(1)}}
    run |= {"heartbeat_timeout": np.float64(30), "rerun": [np.int64(3)], "keep": [np.int64(3)], "check": np.bool_(True)}
    results = handoff.execute_local(dag, deadline=np.int64(3600), run_dir=tmp_path / "r", **run)
    assert results[np.int64(3)] == results[3] == results["next"] == 3
    assert handoff.load(tmp_path / "r")[3] == 3


@pytest.mark.parametrize("value", [True, np.bool_(True)])
def test_truth_values_are_no_numbers(value):
    for name in ("max_retries", "timeout", "priority", "node"):
        with pytest.raises(DAGError, match=name):
            one_function(**{name: value}).validate()
    for name in ("cpu", "memory", "gpu", "license"):
        with pytest.raises(DAGError, match=f"{name}=.*True.* is not a number"):
            one_function(cost={name: value}).validate()
    for name in ("max_retries", "slots", "grace_period", "heartbeat_timeout"):
        with pytest.raises(UsageError, match=name):
            handoff.start(**{name: value})
