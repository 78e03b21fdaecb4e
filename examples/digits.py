"""A cross-validated sweep over the parameters of a classifier, on scikit-learn's 1797 handwritten digits.

    python -m handoff_mpi run -n 4 examples/digits.py                 # or: -- --grid 6 --folds 10

Shows: one function for each fold of each pair (C, gamma), a mean for each pair, a pick, a last fit that is scored on
digits held out, a check at the end. The split is seeded by the id of the function that makes it, so any number of
ranks, and any retry, gives the same figures. Needs scikit-learn: ``pip install '.[examples]'``.
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.svm import SVC

from handoff_mpi import DAG, current_task, task


@task
def load(folds):
    """Return digits to train on, digits held out, and the folds of the former as pairs of indices."""
    seed = current_task().seed % 2**32
    pixels, labels = load_digits(return_X_y=True)
    x, held_x, y, held_y = train_test_split(pixels / 16, labels, test_size=0.2, stratify=labels, random_state=seed)
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y)
    return {"train": (x, y), "held out": (held_x, held_y), "folds": list(parts)}


@task(cost={"cpu": 1, "memory": "200MB"})
def fit(data, c, gamma, fold):
    """Fit on all folds but one, and return the accuracy on that one."""
    x, y = data["train"]
    fitted_on, scored_on = data["folds"][fold]
    return SVC(C=c, gamma=gamma).fit(x[fitted_on], y[fitted_on]).score(x[scored_on], y[scored_on])


@task
def mean(scores):
    """Return the mean accuracy of one (C, gamma)."""
    return float(np.mean(scores))


@task
def best(means):
    """Return the (C, gamma) of the highest mean; of equals, the first."""
    return max(means, key=means.get)


@task(cost={"cpu": 1, "memory": "200MB"})
def refit(data, chosen):
    """Fit the chosen parameters on all folds, and return the accuracy on the digits held out."""
    c, gamma = chosen
    return SVC(C=c, gamma=gamma).fit(*data["train"]).score(*data["held out"])


@task(cost={"cpu": 1, "memory": "200MB"})
def check(data, chosen, means):
    """Compare the chosen parameters' mean with scikit-learn's own cross-validation, and return that."""
    c, gamma = chosen
    expected = float(cross_val_score(SVC(C=c, gamma=gamma), *data["train"], cv=data["folds"]).mean())
    if not np.isclose(means[chosen], expected, rtol=0, atol=1e-12):
        raise ArithmeticError(f"the mean of {chosen} is {means[chosen]}, but scikit-learn's is {expected}")
    return expected


@task
def report(data, means, chosen, checked, accuracy):
    """Print the table, and return its figures."""
    gammas = sorted({gamma for _, gamma in means})
    out = [f"mean accuracy in {len(data['folds'])} folds of {len(data['train'][1])} digits"]
    out += ["C \\ gamma" + "".join(f"{gamma:10.4g}" for gamma in gammas)]
    for c in sorted({c for c, _ in means}):
        out += [f"{c:9.4g}" + "".join(f"{means[c, gamma]:10.4f}" for gamma in gammas)]
    out += [f"best: C={chosen[0]:.4g} gamma={chosen[1]:.4g} with {checked:.4f}, which scikit-learn agrees with"]
    out += [f"held out: {accuracy:.4f} of {len(data['held out'][1])} digits"]
    print("\n".join(out), flush=True)
    return {"means": means, "best": chosen, "held out": accuracy}


def build(args):
    """Return the DAG of a sweep over ``--grid`` values of C by as many of gamma, in ``--folds`` folds."""
    parser = argparse.ArgumentParser(prog="digits.py")
    parser.add_argument("--grid", type=int, default=4)
    parser.add_argument("--folds", type=int, default=5)
    chosen = parser.parse_args(args)
    if chosen.grid < 1 or chosen.folds < 2:
        parser.error("--grid must be at least 1, and --folds at least 2")
    with DAG("digits") as dag:
        data = load(chosen.folds)
        means = {}
        for c in np.logspace(-1, 2, chosen.grid).tolist():
            for gamma in np.logspace(-3, 0, chosen.grid).tolist():
                named = (f"C={c:.4g} gamma={gamma:.4g} fold={fold}" for fold in range(chosen.folds))
                scores = [fit.options(id=id)(data, c, gamma, fold) for fold, id in enumerate(named)]
                means[c, gamma] = mean(scores)
        picked = best(means)
        report(data, means, picked, check(data, picked, means), refit(data, picked))
    return dag
