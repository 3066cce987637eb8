"""Affines by hand: lengths, order, directions, and what is no grid."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from unet_factory.domain.errors import GeometryInvalid
from unet_factory.volume.geometry import as_stored, check_affine, column_lengths, in_ras_order, usable_spacing

# Stored axes i, j, k run towards S, L, A at 3, 1, 2 mm.
TURNED = np.array([[0.0, -1, 0, 7], [0, 0, 2, 8], [3, 0, 0, 9], [0, 0, 0, 1]])


def sheared(one: int, other: int, degrees: float) -> NDArray[np.float64]:
    """Axes ``one`` and ``other`` of 2 mm meet at 90 + ``degrees``."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[one, other] = -2 * np.sin(np.deg2rad(degrees))
    affine[other, other] = 2 * np.cos(np.deg2rad(degrees))
    return affine


def test_lengths_are_of_the_stored_axes_and_ordered_by_direction() -> None:
    assert column_lengths(TURNED) == (3.0, 1.0, 2.0)
    assert in_ras_order(column_lengths(TURNED), TURNED) == (1.0, 2.0, 3.0)
    assert in_ras_order(("i", "j", "k"), TURNED) == ("j", "k", "i")
    assert column_lengths(np.diag([3.0, 4.0, 5.0, 1.0]) + np.eye(4)[:, [1, 0, 2, 3]] * [4, 3, 0, 0]) == (5.0, 5.0, 5.0)


def test_a_volume_along_its_stored_axes_is_the_same_memory() -> None:
    """Index by index: i counts S, j counts R backwards, k counts A."""
    data = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    stored = as_stored(data, TURNED)
    assert stored.shape == (4, 2, 3)
    for r, a, s in itertools.product(range(2), range(3), range(4)):
        assert stored[s, 1 - r, a] == data[r, a, s]
    stored[0, 0, 0] = -1
    assert data[1, 0, 0] == -1


def test_what_is_no_length_becomes_one_millimetre() -> None:
    assert usable_spacing((0.5, 2.0, 3.0)) == (0.5, 2.0, 3.0)
    assert usable_spacing((0.0, float("nan"), -1.0)) == (1.0, 1.0, 1.0)
    assert usable_spacing((float("inf"), 1e-9, 4.0)) == (1.0, 1e-9, 4.0)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 2), (1, 2)])
def test_any_two_axes_may_lean_by_a_degree_and_no_more(one: int, other: int) -> None:
    for degrees in (0.0, 0.99, -0.99):
        check_affine(sheared(one, other, degrees))
    for degrees in (1.01, -1.01, 45.0):
        words = f"axes {one} and {other} meet at {90 + degrees:.2f} degrees, allowed is 90 \\+- 1; resample"
        with pytest.raises(GeometryInvalid, match=words) as caught:
            check_affine(sheared(one, other, degrees))
        assert caught.value.details == {"angle_deg": pytest.approx(90 + degrees, abs=1e-4)}


def test_an_affine_that_is_no_grid_is_shown() -> None:
    flat = "[[0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 3.25, 0]]"
    with pytest.raises(GeometryInvalid) as caught:
        check_affine(np.diag([0, 1.5, 3.25, 1]))
    assert str(caught.value) == f"the affine is singular: {flat}"
    assert caught.value.details == {"affine": flat}
    with pytest.raises(GeometryInvalid) as caught:
        check_affine(np.diag([np.inf, 1.5, 3.25, 1]))
    assert str(caught.value) == "the affine is not finite: [[inf, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 3.25, 0]]"


def test_nearly_parallel_axes_are_singular_however_long() -> None:
    """The directions decide, whose determinant is the sine of the angle here: below 0.001 nothing is told apart."""
    for length in (1e-4, 1.0, 900.0):
        with pytest.raises(GeometryInvalid, match="singular"):
            check_affine(np.diag([length] * 3 + [1]) @ sheared(0, 1, 89.95))
        with pytest.raises(GeometryInvalid, match="sheared"):
            check_affine(np.diag([length] * 3 + [1]) @ sheared(0, 1, 89.9))
        check_affine(np.diag([length] * 3 + [1.0]))
