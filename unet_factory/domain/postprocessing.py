"""What is done to a label map before it is handed out; decided on the validation split, told by the manifest."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from unet_factory.domain.frozen import Frozen

LabelGroup = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
"""Label values that are taken together, whatever the label of each voxel."""


class Postprocessing(Frozen):
    """Of each group of labels in turn, only the largest connected component is kept, as nnU-Net does where it helps
    (Isensee et al., Nature Methods 18:203, 2021). The group's other voxels become background. Voxels that share a face,
    an edge or a corner are connected.

    ``keep_largest``: groups of label values; one of all labels but the background stands for the whole foreground.
    """

    keep_largest: tuple[LabelGroup, ...] = ()

    @model_validator(mode="after")
    def _values_differ(self) -> Self:
        for group in self.keep_largest:
            if len(set(group)) < len(group):
                raise ValueError(
                    f"keep_largest has the group {list(group)}; each label must occur only once in a group"
                )
        return self

    def in_words(self, names: Sequence[str]) -> tuple[str, ...]:
        """One sentence for each step.

        Args:
            names: of the labels; the index is the label's value, the background comes first.
        """
        foreground = set(range(1, len(names)))
        return tuple(
            "only the largest connected component is kept of "
            + (
                "the whole foreground"
                if set(group) == foreground and len(group) > 1
                else " and ".join(names[value] for value in group)
            )
            for group in self.keep_largest
        )


AS_GIVEN = Postprocessing()
"""Nothing is done."""
