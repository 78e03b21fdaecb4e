"""A tiled Cholesky factorisation on numpy blocks, checked against numpy.

    mpirun -n 4 python -m handoff_mpi run examples/cholesky.py               # or: -- --tiles 8 --size 128

Shows: a DAG that is not a tree, arrays that go straight from rank to rank, costs, a check at the end. The tiles
arrive read-only; each function returns a new one. The algorithm is the right-looking one of Buttari, Langou,
Kurzak and Dongarra, "A class of parallel tiled linear algebra algorithms" (2009).
"""

import argparse

import numpy as np

from handoff_mpi import DAG, task


def matrix(size):
    """Return a symmetric positive definite matrix of that many rows, the same on every rank."""
    root = np.random.default_rng(7).standard_normal((size, size))
    return root @ root.T + size * np.eye(size)


@task
def tile(tiles, size, row, column):
    """Return one block of the matrix."""
    full = matrix(tiles * size)
    return full[row * size : (row + 1) * size, column * size : (column + 1) * size].copy()


@task(cost={"cpu": 1, "memory": "10MB"})
def potrf(diagonal):
    """Factorise a block on the diagonal."""
    return np.linalg.cholesky(diagonal)


@task(cost={"cpu": 1, "memory": "10MB"})
def trsm(lower, block):
    """Solve for a block below it."""
    return np.linalg.solve(lower, block.T).T


@task(cost={"cpu": 1, "memory": "10MB"})
def gemm(block, left, right):
    """Update a block to the right."""
    return block - left @ right.T


@task
def check(tiles, size, blocks):
    """Put the factor together, compare it with numpy's, and return the relative residual."""
    factor = np.zeros((tiles * size, tiles * size))
    for (row, column), block in blocks.items():
        factor[row * size : (row + 1) * size, column * size : (column + 1) * size] = block
    full = matrix(tiles * size)
    residual = float(np.linalg.norm(factor @ factor.T - full) / np.linalg.norm(full))
    if not np.allclose(factor, np.linalg.cholesky(full)):
        raise ArithmeticError(f"the factor differs from numpy's, residual {residual:.1e}")
    print(f"cholesky of {tiles * size} x {tiles * size} in {tiles} x {tiles} tiles agrees with numpy", flush=True)
    return residual


def build(args):
    """Return the DAG of a factorisation in ``--tiles`` by ``--tiles`` blocks of ``--size`` rows."""
    parser = argparse.ArgumentParser(prog="cholesky.py")
    parser.add_argument("--tiles", type=int, default=6)
    parser.add_argument("--size", type=int, default=64)
    chosen = parser.parse_args(args)
    n, size = chosen.tiles, chosen.size
    with DAG("cholesky") as dag:
        a = {(i, j): tile(n, size, i, j) for i in range(n) for j in range(i + 1)}
        for k in range(n):
            a[k, k] = potrf(a[k, k])
            for i in range(k + 1, n):
                a[i, k] = trsm(a[k, k], a[i, k])
            for i in range(k + 1, n):
                for j in range(k + 1, i + 1):
                    a[i, j] = gemm(a[i, j], a[i, k], a[j, k])
        check(n, size, a)
    return dag
