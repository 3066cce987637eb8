"""Segmenting in this process, without a service: the same reading, networks, inference and label map as a worker's."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from unet_factory.domain.conditions import SnappedConditions, named_conditions, snap_conditions
from unet_factory.domain.errors import MalformedRequest
from unet_factory.domain.jobs import PolicyReport, Spacings
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.plausibility import (
    Axis,
    Finding,
    field_of_view_findings,
    refuse_implausible,
    volume_findings,
)
from unet_factory.domain.precision import Precision
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.domain.spacing import SnappedSpacing, SpacingPlan, plan_spacing
from unet_factory.domain.volume_limits import DEFAULT_LIMITS
from unet_factory.model.checkpoint import load_checkpoint, parse_unet, standalone_bytes
from unet_factory.model.device import describe, pick_device, release_memory
from unet_factory.model.ensemble import SegmentingNetwork, joined
from unet_factory.model.inference import OnWindow, segment_scan
from unet_factory.model.mirroring import mirrored
from unet_factory.model.out_of_memory import Way, first_that_fits, ways
from unet_factory.model.precision import pick_precision
from unet_factory.platform.model_registry import RegisteredModel
from unet_factory.volume import Volume, read_volume, volumes_ml

NO_PARAMETERS = SegmentationParameters()

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LocalSegmentation:
    """A scan and its label map, ``labels`` (r, a, s) uint8; the rest means what it means in a ``Job``."""

    volume: Volume
    labels: NDArray[np.uint8]
    model: str
    checkpoint_digest: str
    spacing: Spacings
    policy: PolicyReport
    conditions: Mapping[str, float]
    device: str
    volumes_ml: Mapping[str, float]
    implausible: tuple[Finding, ...]
    mirrored_axes: tuple[Axis, ...]
    postprocessing: tuple[str, ...]
    notes: tuple[str, ...]
    timings_s: Mapping[str, float]


@dataclass
class _Stages:
    """Seconds by the name of the stage."""

    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings_s[name] = round(time.perf_counter() - started, 6)


class LocalSegmenter:
    """One checkpoint, with the networks that it has made; threads may share it.

    Raises:
        CheckpointInvalid: the checkpoint cannot be used.
        RuntimeError: the device asked for is not there.
    """

    def __init__(
        self, model: RegisteredModel, device: str = "auto", precision: Precision | Literal["auto"] = "auto"
    ) -> None:
        self._device = pick_device(device)
        self._checkpoint = load_checkpoint(model.path, self._device)
        self._precision = pick_precision(precision, self._checkpoint, self._device)
        self._networks: dict[tuple[SnappedSpacing, SnappedConditions], SegmentingNetwork] = {}
        self._making = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        return self._checkpoint.manifest

    @property
    def digest(self) -> str:
        """sha256 of the checkpoint's file."""
        return self._checkpoint.digest

    def segment(
        self, scan: Path, parameters: SegmentationParameters = NO_PARAMETERS, on_window: OnWindow | None = None
    ) -> LocalSegmentation:
        """Segment a file: a volume, or a zip archive with one DICOM series.

        Args:
            on_window: called before each window with (done, total); may raise to stop the work.

        Raises:
            FactoryError: whatever a gateway would refuse as well, for the same reasons.
        """
        _refuse_what_needs_a_factory(parameters)
        manifest, stage = self.manifest, _Stages()
        axes = manifest.axes_to_mirror(wanted=parameters.mirroring)
        conditions = snap_conditions(manifest.conditions, parameters.conditions)
        with stage("load"):
            volume = read_volume(scan, spacing_ras_mm=parameters.spacing_ras_mm, choice=parameters.image_choice)
        native_mm = volume.spacing_ras_mm
        plan = plan_spacing(native_mm, manifest.grid, parameters.outside, parameters.working_spacing_mm)
        found = field_of_view_findings(manifest.seen, volume.header.shape_ras, native_mm)
        refuse_implausible(parameters.implausible, found, manifest.name)
        with stage("weights"):
            network = self._network(plan.snapped, conditions)
        with stage("infer"):
            way, labels = self._infer(network, volume, plan, axes, on_window)
        measured_ml = volumes_ml(labels, native_mm, manifest.labels)
        found += volume_findings(manifest.seen, measured_ml)
        refuse_implausible(parameters.implausible, found, manifest.name)
        return LocalSegmentation(
            volume=volume,
            labels=labels,
            model=manifest.name,
            checkpoint_digest=self.digest,
            spacing=Spacings(native=native_mm, requested=parameters.working_spacing_mm, working=plan.working_mm),
            policy=way.told(PolicyReport(outside=parameters.outside, out_of_range=plan.out_of_range)),
            conditions=named_conditions(manifest.conditions, conditions),
            device=describe(self._device),
            volumes_ml=measured_ml,
            implausible=found,
            mirrored_axes=axes,
            postprocessing=manifest.postprocessing_in_words,
            notes=volume.header.notes,
            timings_s=stage.timings_s,
        )

    def _network(self, snapped: SnappedSpacing, conditions: SnappedConditions) -> SegmentingNetwork:
        """From the very bytes that ``GET /unet`` hands out, so that the two cannot differ."""
        with self._making:
            key = snapped, conditions
            if key not in self._networks:
                blobs = [
                    standalone_bytes(self._checkpoint, snapped, "float32", conditions, number)
                    for number in self.manifest.member_numbers
                ]
                self._networks[key] = joined([parse_unet(blob, self._device) for blob in blobs])
            return self._networks[key]

    def _infer(
        self,
        network: SegmentingNetwork,
        volume: Volume,
        plan: SpacingPlan,
        axes: tuple[Axis, ...],
        on_window: OnWindow | None,
    ) -> tuple[Way, NDArray[np.uint8]]:
        """The label map, and the way in which it was made: memory may run out.

        Raises:
            OutOfMemory: it ran out in smaller windows too.
        """

        def attempt(way: Way) -> NDArray[np.uint8]:
            return segment_scan(
                mirrored(network, axes),
                torch.from_numpy(volume.data),
                way.plan,
                way.execution(self.manifest, network.divisors, self._precision),
                postprocessing=self.manifest.postprocessing,
                max_voxels=DEFAULT_LIMITS.voxels,
                on_window=on_window,
            ).numpy()

        def fall_back(way: Way) -> None:
            release_memory(self._device)
            log.warning("memory ran out; another way is tried: %s", way.step)

        return first_that_fits(ways(plan, (), self._device, cpu_allowed=False), attempt, fall_back)


def _refuse_what_needs_a_factory(parameters: SegmentationParameters) -> None:
    if parameters.budget.limited:
        raise MalformedRequest(
            "budget_seconds and budget_bytes need a factory, which knows what jobs cost on its workers; without one, "
            "choose a working_spacing"
        )
    if parameters.progressive:
        raise MalformedRequest("progressive needs a factory, whose jobs can be asked while they run")
