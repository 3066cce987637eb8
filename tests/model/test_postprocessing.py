"""Keeping the largest component: as an independent library finds it, and only in the labels that are meant."""

import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from unet_factory.domain.manifest import Manifest
from unet_factory.domain.postprocessing import AS_GIVEN, Postprocessing
from unet_factory.model.postprocessing import postprocess

FOREGROUND = (1, 2, 3)
GROUPS = st.lists(st.sampled_from([FOREGROUND, (1,), (2,), (3,), (1, 3)]), min_size=1, max_size=3)


def random_labels(seed: int, share: float) -> NDArray[np.uint8]:
    """Scattered voxels of three labels in a random part of the array."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((11, 9, 7)) < share, rng.integers(1, 4, (11, 9, 7)), 0).astype(np.uint8)
    labels[: rng.integers(0, 10)] = 0
    return labels


def processed(labels: NDArray[np.uint8], *groups: tuple[int, ...]) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = postprocess(torch.from_numpy(labels.copy()), Postprocessing(keep_largest=groups)).numpy()
    return found


def component_sizes(mask: NDArray[np.bool_]) -> list[int]:
    """In voxels, by SimpleITK, largest first."""
    components = SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(mask.astype(np.uint8)), True)
    return sorted(np.bincount(SimpleITK.GetArrayFromImage(components).ravel())[1:].tolist(), reverse=True)


@given(seed=st.integers(0, 2**16), share=st.sampled_from([0.0, 0.02, 0.1, 0.2]), groups=GROUPS)
def test_what_stays_is_the_largest_component_of_each_group_in_turn(
    seed: int, share: float, groups: list[tuple[int, ...]]
) -> None:
    before = random_labels(seed, share)
    for group in groups:
        after = processed(before, group)
        inside = np.isin(before, group)
        assert component_sizes(np.isin(after, group)) == component_sizes(inside)[:1]
        np.testing.assert_array_equal(after[~inside], before[~inside])
        np.testing.assert_array_equal(after[after > 0], before[after > 0])
        before = after
    np.testing.assert_array_equal(processed(random_labels(seed, share), *groups), before)
    np.testing.assert_array_equal(processed(before, groups[-1]), before)


def test_without_postprocessing_nothing_changes() -> None:
    labels = torch.from_numpy(random_labels(0, 0.2))
    assert torch.equal(postprocess(labels.clone(), AS_GIVEN), labels)


def test_it_is_told_in_words() -> None:
    names = ["background", "atrium", "ventricle", "myocardium"]
    assert Postprocessing(keep_largest=(FOREGROUND, (2,), (1, 3))).in_words(names) == (
        "only the largest connected component is kept of the whole foreground",
        "only the largest connected component is kept of ventricle",
        "only the largest connected component is kept of atrium and myocardium",
    )
    assert AS_GIVEN.in_words(names) == ()


@pytest.mark.parametrize("groups", [[[]], [[0]], [[1, 1]], [[1], [99]]])
def test_a_manifest_names_labels_that_there_are(tiny_manifest: Manifest, groups: list[list[int]]) -> None:
    changed = tiny_manifest.model_dump(mode="json") | {"postprocessing": {"keep_largest": groups}}
    with pytest.raises(ValidationError, match="postprocessing"):
        Manifest.model_validate(changed)


def test_a_manifest_from_before_has_none(tiny_manifest: Manifest) -> None:
    before = tiny_manifest.model_dump_json(exclude={"postprocessing"})
    assert Manifest.model_validate_json(before).postprocessing == AS_GIVEN
