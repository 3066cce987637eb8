"""Least squares on the relative error with coefficients that are never negative, for a handful of terms.

The gateway fits at every change of what was measured, without numpy and in a few milliseconds. The method is the active
set of C. L. Lawson and R. J. Hanson, Solving Least Squares Problems (1974), chapter 23, on the normal equations.
"""

import math
from collections.abc import Sequence

_RIDGE = 1e-8  # of columns scaled to one: keeps terms that were always proportional to each other apart
_TOLERANCE = 1e-9

Matrix = list[list[float]]


def fit_nonnegative(rows: Sequence[Sequence[float]], weights: Sequence[float]) -> tuple[float, ...]:
    """The x >= 0 that minimises the weighted sum of (row . x - 1)**2; a column of zeros gets the coefficient zero."""
    columns = list(zip(*rows, strict=True))
    weighted = [[value * weight for value, weight in zip(column, weights, strict=True)] for column in columns]
    scales = [math.sqrt(_dot(weighted[i], column)) or 1.0 for i, column in enumerate(columns)]
    target = [math.fsum(column) / scale for column, scale in zip(weighted, scales, strict=True)]
    gram = [
        [_dot(left, right) / (scale * other) for right, other in zip(columns, scales, strict=True)]
        for left, scale in zip(weighted, scales, strict=True)
    ]
    for i, row in enumerate(gram):
        row[i] += _RIDGE
    return tuple(value / scale for value, scale in zip(_active_set(gram, target), scales, strict=True))


def _active_set(gram: Matrix, target: list[float]) -> list[float]:
    """The x >= 0 that minimises x . gram . x / 2 - target . x."""
    found, free = [0.0] * len(target), set[int]()
    for _ in range(3 * len(target)):
        slopes = {i: target[i] - _dot(gram[i], found) for i in range(len(target)) if i not in free}
        steepest = max(slopes, key=slopes.__getitem__, default=0)
        if not slopes or slopes[steepest] <= _TOLERANCE:
            break
        free.add(steepest)
        found = _within_bounds(gram, target, found, free)
    return found


def _within_bounds(gram: Matrix, target: list[float], found: list[float], free: set[int]) -> list[float]:
    """The minimum over the ``free`` variables; those that would become negative on the way there are fixed at zero."""
    while free:
        order = sorted(free)
        solved = _solve([[gram[i][j] for j in order] for i in order], [target[i] for i in order])
        wanted = dict(zip(order, solved, strict=True))
        if min(solved) > 0:
            return [wanted.get(i, 0.0) for i in range(len(found))]
        step = min(found[i] / (found[i] - value) for i, value in wanted.items() if value <= 0)
        found = [now + step * (wanted[i] - now) if i in wanted else 0.0 for i, now in enumerate(found)]
        free -= {i for i, value in wanted.items() if value <= 0 and found[i] <= _TOLERANCE}
        found = [value if i in free else 0.0 for i, value in enumerate(found)]
    return found


def _solve(matrix: Matrix, target: list[float]) -> list[float]:
    """The solution of a symmetric positive definite system, by Cholesky's decomposition."""
    size = len(target)
    lower: Matrix = [[0.0] * size for _ in range(size)]
    forward = [0.0] * size
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] - _dot(lower[i][:j], lower[j][:j])
            lower[i][j] = math.sqrt(max(rest, _RIDGE**2)) if i == j else rest / lower[j][j]
        forward[i] = (target[i] - _dot(lower[i][:i], forward[:i])) / lower[i][i]
    solved = [0.0] * size
    for i in reversed(range(size)):
        above = math.fsum(lower[k][i] * solved[k] for k in range(i + 1, size))
        solved[i] = (forward[i] - above) / lower[i][i]
    return solved


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(map(float.__mul__, map(float, left), map(float, right)))
