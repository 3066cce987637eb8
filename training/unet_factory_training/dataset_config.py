"""Where labelled scans are and how to read them; a value in the training configuration."""

from typing import Literal, Self

from pydantic import Field, model_validator

from unet_factory.domain.frozen import Frozen

LayoutName = Literal["splits", "msd", "acdc", "brats", "spider", "mmwhs"]

LabelMap = dict[int | Literal["others"], int]
"""Value in the label files -> class; ``others`` is every value that is not named. 0 stays 0 unless named."""


class Fold(Frozen):
    """Part ``number``, counted from 0, of the ``of`` parts of a cross-validation."""

    number: int = Field(ge=0)
    of: int = Field(ge=2)

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.number >= self.of:
            raise ValueError(f"fold {self.number} of {self.of}: folds are counted from 0, the last is {self.of - 1}")
        return self


class DatasetConfig(Frozen):
    """Where the scans are. ``layout`` names how their owner lays them out, see ``datasets/layouts.py``.

    ``root`` may hold environment variables. ``spacing_from``: ``affine``, or ``pixdim`` for NIfTI data sets whose
    affine is known to be wrong. ``label_map`` overrules the layout's own. ``conditions``: a JSON file under ``root``
    that tells of scans or patients, by name, how they were acquired: ``{"case_01": {"field_strength_t": 1.5}}``.
    ``channel``: which image is meant, counted from 0, where a scan has one for each channel, as nnU-Net's may.
    ``label_grid``: a label map on another grid than its image is refused under ``same``; under ``resampled`` it is
    brought to the image's grid, each voxel taking the nearest label.
    ``fold``: training and validation patients are put together and divided anew: one part validates, the others train;
    the test split stays as it is.
    """

    layout: LayoutName = "splits"
    root: str
    spacing_from: Literal["affine", "pixdim"] = "affine"
    label_map: LabelMap | None = None
    conditions: str | None = None
    channel: int | None = Field(default=None, ge=0)
    label_grid: Literal["same", "resampled"] = "same"
    fold: Fold | None = None
