"""The fit of prices against what is known of least squares, and against an independent solver."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from unet_factory.domain.nonnegative_fit import fit_nonnegative

COEFFICIENTS = st.lists(st.sampled_from([0.0, 1e-8, 3e-4, 0.02, 1.0, 50.0]), min_size=1, max_size=6)


@given(COEFFICIENTS, st.integers(0, 2**32 - 1))
def test_it_recovers_coefficients_of_any_scale(coefficients: list[float], seed: int) -> None:
    """Terms between one and a million, as counts of windows and voxels are."""
    terms = 10 ** np.random.default_rng(seed).uniform(0, 6, size=(30, len(coefficients)))
    values = terms @ np.array(coefficients)
    if not values.all():
        return
    found = fit_nonnegative((terms / values[:, None]).tolist(), [1.0] * 30)
    np.testing.assert_allclose(terms @ np.array(found), values, rtol=1e-4)


@given(st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_it_agrees_with_an_independent_solver_on_noise(size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, weights = random.uniform(0, 3, size=(25, size)), random.uniform(0.1, 1, size=25)
    found = fit_nonnegative(rows.tolist(), weights.tolist())
    root = np.sqrt(weights)
    _, expected = nnls(rows * root[:, None], root)
    assert min(found) >= 0
    assert math.sqrt(np.sum(weights * (rows @ found - 1) ** 2)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_terms_that_never_occurred_or_always_together_are_no_trouble() -> None:
    found = fit_nonnegative([[0.0, value, 2 * value] for value in (1.0, 2.0, 0.5, 0.25)], [1.0] * 4)
    assert found[0] == 0
    assert all(math.isfinite(value) and value >= 0 for value in found)
