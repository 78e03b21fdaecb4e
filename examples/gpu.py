"""Heat that spreads over plates, on GPUs where ranks have some, checked against numpy.

    python -m handoff_mpi run -n 3 examples/gpu.py       # or: -- --plates 16 --size 512 --steps 500 --device cpu

Shows: a function with a variant for GPUs, arrays of cupy that go from function to function and are arrays of numpy for
one that has claimed no GPU, and the device that each call was given. Each plate has a warm edge and a material of its
own. It is computed in two halves, which may be on different devices and ranks. Then a function without a GPU compares
it with the same steps by numpy, and the last function prints a table.
"""

import argparse

import numpy

from handoff_mpi import DAG, current_task, discover_nodes, task


def spread(xp, plate, rate, steps):
    """Return ``plate`` after so many steps, in which each point goes towards the mean of its four neighbours.

    Args:
        xp: the module that has made the plate, numpy or cupy.
    """
    plate = plate.copy()
    for _ in range(steps):
        around = plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:]
        plate[1:-1, 1:-1] += rate * (around / 4 - plate[1:-1, 1:-1])
    return xp.ascontiguousarray(plate)


def start(size, number):
    """Return a cold plate of ``size`` × ``size`` points whose first row is warm in a pattern of its own."""
    plate = numpy.zeros((size, size))
    plate[0] = 50 + 50 * numpy.sin(numpy.linspace(0, (number + 1) * numpy.pi, size))
    return plate


@task(cost={"gpu": 1})
def spread_on_gpu(state, rate, steps):
    """Take a plate ``steps`` further, by cupy, on the device that this call has claimed."""
    import cupy

    plate, used = state
    (uuid,) = current_task().gpu_uuids
    return spread(cupy, cupy.asarray(plate), rate, steps), (*used, uuid)


@task
def spread_on_cpu(state, rate, steps):
    """Take a plate ``steps`` further, by numpy."""
    plate, used = state
    return spread(numpy, plate, rate, steps), (*used, "cpu")


@task
def check(state, number, rate, steps):
    """Return the largest difference of a plate from the same steps by numpy, its mean, and who computed it."""
    plate, used = state
    assert isinstance(plate, numpy.ndarray), "this function has claimed no device"
    expected = spread(numpy, start(len(plate), number), rate, steps)
    error = float(abs(plate - expected).max())
    if error > 1e-9:
        raise ArithmeticError(f"plate {number} differs from numpy's by {error:.1e}")
    return error, float(plate.mean()), used


@task
def table(checks):
    """Print a line for each plate, and return the largest error."""
    print("plate  mean temperature  largest error  computed by")
    for number, (error, mean, used) in enumerate(checks):
        print(f"{number:5d}  {mean:16.6f}  {error:13.1e}  {' and '.join(dict.fromkeys(used))}", flush=True)
    return max(error for error, _, _ in checks)


def build(args):
    """Return the DAG of ``--plates`` plates of ``--size`` by ``--size`` points, each taken ``--steps`` further."""
    parser = argparse.ArgumentParser(prog="gpu.py")
    parser.add_argument("--plates", type=int, default=8)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", choices=["auto", "gpu", "cpu"], default="auto")
    chosen = parser.parse_args(args)
    has_gpu = any(offered.get("gpu", 0) >= 1 for offered in discover_nodes().values())
    is_on_gpu = has_gpu if chosen.device == "auto" else chosen.device == "gpu"
    step, half = spread_on_gpu if is_on_gpu else spread_on_cpu, chosen.steps // 2
    with DAG("plates") as dag:
        checks = []
        for number in range(chosen.plates):
            rate = 0.2 + 0.7 * number / chosen.plates
            state = step((start(chosen.size, number), ()), rate, half)
            state = step(state, rate, chosen.steps - half)
            checks.append(check(state, number, rate, chosen.steps))
        table(checks)
    return dag
