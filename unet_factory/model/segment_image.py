"""``unet_factory.segment``: a scan in, its label map out, in this process."""

import warnings
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import nibabel

from unet_factory.domain.plausibility import in_words
from unet_factory.domain.precision import Precision
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.model.in_process import NO_PARAMETERS, LocalSegmentation, LocalSegmenter
from unet_factory.platform.file_digest import file_digest
from unet_factory.platform.manifest_file import read_manifest
from unet_factory.platform.model_registry import ModelRegistry, RegisteredModel
from unet_factory.volume import write_labelmap
from unet_factory.volume.images import Scan, image_in_memory, scan_file

_SUFFIX = ".safetensors"


def segment(
    image: Scan,
    model: str | Path | None = None,
    *,
    parameters: SegmentationParameters = NO_PARAMETERS,
    models_dir: Path | str = "models",
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
) -> nibabel.Nifti1Image:
    """Segment a scan, on its own grid, without a server; the answer is the one that a worker gives.

    Args:
        image: the path of a NIfTI, MHA or NRRD volume, of a DICOM zip archive or folder; or a nibabel image.
        model: the name of a model that is installed or lies in ``models_dir``, or a checkpoint's file; by default the
            default model.
        parameters: spacings, policies and choices, as for the HTTP interface; its ``model`` is not looked at.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        precision: ``auto`` tries which arithmetic is faster here, as a worker does.

    Returns:
        uint8 labels, shape and affine those of the scan. ``extra`` says which model, digest, spacing and policy it was,
        and the volumes in ml.

    Warns:
        UserWarning: the spacing lies outside the trained range, the result is not plausible, or memory ran out and
            smaller windows were used.

    Raises:
        FactoryError: what is wrong with the scan, the model or a parameter.
    """
    segmenter = _segmenter(_registered(model, Path(models_dir)), device, precision)
    with scan_file(image) as scan, TemporaryDirectory() as folder:
        done = segmenter.segment(scan, parameters)
        _warn(done)
        result = Path(folder) / "labels.nii"
        write_labelmap(result, done.labels, scan, done.volume.header)
        labels = image_in_memory(result)
    labels.extra.update(
        model=done.model,
        checkpoint_digest=done.checkpoint_digest,
        spacing=done.spacing.model_dump(mode="json"),
        policy=done.policy.model_dump(mode="json"),
        volumes_ml=dict(done.volumes_ml),
        notes=list(done.notes),
    )
    return labels


def registered_file(path: Path) -> RegisteredModel:
    """
    Raises:
        CheckpointInvalid: it is no checkpoint.
    """
    return RegisteredModel(path, read_manifest(path), file_digest(path))


def _registered(model: str | Path | None, models_dir: Path) -> RegisteredModel:
    if isinstance(model, Path) or (model is not None and model.endswith(_SUFFIX)):
        return registered_file(Path(model))
    return ModelRegistry.scan(models_dir).get(model)


def _segmenter(model: RegisteredModel, device: str, precision: Precision | Literal["auto"]) -> LocalSegmenter:
    return _loaded(model.path.resolve(), model.digest, device, precision)


@lru_cache(maxsize=2)
def _loaded(path: Path, digest: str, device: str, precision: Precision | Literal["auto"]) -> LocalSegmenter:
    """``digest``: a file that was replaced is loaded again."""
    del digest
    return LocalSegmenter(registered_file(path), device, precision)


def _warn(done: LocalSegmentation) -> None:
    if done.implausible:
        warnings.warn(
            f"unlike the scans that {done.model} was trained on; do not rely on the result: "
            + in_words(done.implausible),
            stacklevel=3,
        )
    if done.policy.out_of_range:
        warnings.warn(f"outside the trained range of {done.model}; the policy was {done.policy.outside}", stacklevel=3)
    if done.policy.reduced_memory:
        warnings.warn("memory ran out; the scan was segmented in smaller windows", stacklevel=3)
