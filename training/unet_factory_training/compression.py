"""A smaller checkpoint that generates the same networks.

Weights are ``bias + heads @ h(spacing)``. Over the trained range the hidden features h trace a surface of three
parameters, piecewise linear in the spacing: units that are always on are linear in those before them, units that are
never on are zero. So h hardly leaves a space of fewer dimensions. Its best basis, in the metric of the weights, are the
principal components of ``heads @ h`` over sampled spacings: the heads are rotated into it, the mean goes into the bias,
and the projection becomes a linear layer before the heads. Rank and dtype are the smallest whose logits stay within
the tolerance at spacings that the basis was not fitted to.
"""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor, nn

from unet_factory.domain.errors import FactoryError
from unet_factory.domain.manifest import Manifest, Parametrization
from unet_factory.domain.spacing import SnappedSpacing, SpacingGrid
from unet_factory.model.checkpoint import DTYPES, Checkpoint, load_checkpoint, save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork, Weights
from unet_factory_training.evaluation import draw_spacings
from unet_factory_training.logit_change import LogitChange, LogitComparison, Probe

_FITTED_DRAWS, _FITTED_SEED = 2000, 1
_SEARCHED = 6
_HELD_OUT_DRAWS, _HELD_OUT_SEED = 12, 2
_SEARCH_MARGIN = 0.5  # of the tolerance: what is left is for spacings between those looked at, and for rounding
_NEGLIGIBLE = 1e-6  # of the first singular value: the rounding of features in float32
_ROWS = 2**18
_REST_BYTES = 2**17  # manifest and MLP


class ToleranceMissed(FactoryError):
    """No smaller checkpoint keeps the logits within the tolerance."""

    slug, title = "tolerance-missed", "The checkpoint cannot be compressed this far"


@dataclass(frozen=True)
class Compressed:
    """A compressed checkpoint's parts, with what was measured at ``spacings`` held-out spacings. ``heads_dtype`` and
    ``bias_dtype`` are those of the file.
    """

    hypernetwork: Hypernetwork
    manifest: Manifest
    heads_dtype: str
    bias_dtype: str
    change: LogitChange
    spacings: int


@dataclass(frozen=True)
class Basis:
    """Directions of the features, best first: ``mean`` (features,), ``analysis`` (rank, features) gives coefficients
    of unit variance, ``synthesis`` (features, rank) the features again. float64.
    """

    mean: Tensor
    analysis: Tensor
    synthesis: Tensor

    def of_rank(self, rank: int) -> "Basis":
        return Basis(self.mean, self.analysis[:rank], self.synthesis[:, :rank])

    def project(self, features: Tensor) -> Tensor:
        """(features,) -> the closest (features,) within the basis."""
        centred = self.analysis @ (features.double() - self.mean)
        return (self.mean + self.synthesis @ centred).to(features.dtype)


def compress_file(
    source: Path, target: Path, tolerance: float, probe: Probe, most_bytes: int | None = None
) -> Compressed:
    """Write a compressed copy of the checkpoint ``source`` to ``target``, an ordinary checkpoint.

    Args:
        most_bytes: the file may have so many, whatever that does to the logits; the tolerance is not looked at then.

    Raises:
        CheckpointInvalid: ``source`` is no checkpoint.
        ToleranceMissed: nothing smaller stays within the tolerance, or no checkpoint is so small; nothing is written.
    """
    checkpoint = load_checkpoint(source)
    if most_bytes is None:
        compressed = compress(checkpoint, tolerance, probe, source.stat().st_size)
    else:
        compressed = compress_to(checkpoint, most_bytes, probe)
    save_checkpoint(
        target,
        compressed.hypernetwork,
        compressed.manifest,
        heads=compressed.heads_dtype,
        bias=compressed.bias_dtype,
    )
    return compressed


def table_of(compressed: Compressed, source: Path, target: Path) -> Table:
    """What was written, and how far its logits are from those of ``source``."""
    before, after = source.stat().st_size, target.stat().st_size
    rows = {
        "file": f"{target} ({after / 1e6:.1f} MB, {before / after:.1f} times smaller)",
        "heads": f"{compressed.hypernetwork.shape.basis} per weight, {compressed.heads_dtype}",
        "base weights": compressed.bias_dtype,
        "largest change of a logit": f"{compressed.change.largest:.1e} of the largest logit",
        "root mean square change": f"{compressed.change.rms:.1e} of the logits'",
        "voxels that change class": f"{compressed.change.classes:.1e}",
        "measured at": f"{compressed.spacings} spacings that were not used for fitting",
    }
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def compress(checkpoint: Checkpoint, tolerance: float, probe: Probe, size_bytes: int) -> Compressed:
    """The smallest form of a checkpoint of ``size_bytes`` whose logits change by no more than ``tolerance``, measured
    as ``LogitChange.largest`` at held-out spacings.

    Raises:
        ToleranceMissed: there is none.
    """
    original, manifest = checkpoint.hypernetwork, checkpoint.manifest
    _refuse_what_has_no_basis(manifest)
    fitted, held_out = fitted_spacings(manifest.grid), held_out_spacings(manifest.grid)
    basis = fit_basis(original, fitted)
    rank = _smallest_rank(original, basis, fitted[-_SEARCHED:], probe, tolerance * _SEARCH_MARGIN)
    comparison = LogitComparison(original.architecture, original.generate, held_out, probe)
    best = None
    for candidate_rank, dtype in _candidates(rank, len(basis.analysis), original.bias.numel(), size_bytes):
        candidate = with_basis(original, basis.of_rank(candidate_rank), dtype)
        change = comparison.change(candidate.generate)
        best = min(change.largest, best if best is not None else change.largest)
        if change.largest <= tolerance:
            told = _manifest_of(checkpoint, candidate, change)
            return Compressed(candidate, told, dtype, "float32", change, len(held_out))
    found = (
        "no smaller checkpoint was found" if best is None else f"the best smaller checkpoint changes them by {best:.1e}"
    )
    raise ToleranceMissed(
        f"{manifest.name}: logits must not change by more than {tolerance:.1e} of the largest; {found}",
        tolerance=tolerance,
        best=best,
    )


def compress_to(checkpoint: Checkpoint, most_bytes: int, probe: Probe) -> Compressed:
    """The form of a checkpoint with the most heads that fit into ``most_bytes``, all of it in float16. What that costs
    is measured at held-out spacings; what it does to Dice is for ``evaluate`` to say.

    Raises:
        ToleranceMissed: not even one head for each weight fits.
    """
    original, manifest = checkpoint.hypernetwork, checkpoint.manifest
    _refuse_what_has_no_basis(manifest)
    held_out, basis = held_out_spacings(manifest.grid), fit_basis(original, fitted_spacings(manifest.grid))
    per_head = 2 * original.bias.numel()
    rank = min(len(basis.analysis), (most_bytes - _REST_BYTES) // per_head - 1)
    if rank < 1:
        raise ToleranceMissed(
            f"{manifest.name}: {most_bytes / 1e6:.1f} MB are too few; one head for each weight takes "
            f"{(2 * per_head + _REST_BYTES) / 1e6:.1f} MB"
        )
    candidate = with_basis(original, basis.of_rank(rank), "float16", bias="float16")
    change = LogitComparison(original.architecture, original.generate, held_out, probe).change(candidate.generate)
    told = _manifest_of(checkpoint, candidate, change)
    return Compressed(candidate, told, "float16", "float16", change, len(held_out))


def _refuse_what_has_no_basis(manifest: Manifest) -> None:
    """
    Raises:
        ToleranceMissed: the weights depend on more than the spacing, or on nothing.
    """
    if manifest.conditions:
        names = ", ".join(condition.name for condition in manifest.conditions)
        raise ToleranceMissed(
            f"only weights that depend on the spacing alone can be compressed; these also depend on {names}"
        )
    if manifest.hypernetwork.parametrization is Parametrization.CONSTANT:
        raise ToleranceMissed("the weights do not depend on the spacing, so there is nothing to compress")


def fit_basis(hypernetwork: Hypernetwork, spacings: list[SnappedSpacing]) -> Basis:
    """The principal components of the weights' changes over ``spacings``, expressed in features."""
    features = _features(hypernetwork, spacings)
    mean = features.mean(dim=0)
    values, vectors = torch.linalg.eigh(_gram(hypernetwork.heads))
    kept = values > values[-1] * torch.finfo(torch.float64).eps
    root = (values[kept].sqrt()[:, None]) * vectors[:, kept].T
    _, singular, directions = torch.linalg.svd((features - mean) @ root.T, full_matrices=False)
    rank = max(1, int((singular > _NEGLIGIBLE * singular[0]).sum()))
    deviation = singular[:rank].clamp(min=torch.finfo(torch.float64).tiny) / len(spacings) ** 0.5
    analysis = directions[:rank] @ root / deviation[:, None]
    synthesis = vectors[:, kept] / values[kept].sqrt() @ directions[:rank].T * deviation
    return Basis(mean, analysis, synthesis)


def with_basis(original: Hypernetwork, basis: Basis, dtype: str, bias: str = "float32") -> Hypernetwork:
    """``original`` with its features projected to ``basis`` before fewer heads, rounded as ``dtype`` stores them, and
    their bias as ``bias`` does.
    """
    shape = original.shape.model_copy(update={"basis": len(basis.analysis)})
    with torch.device("meta"):
        compressed = Hypernetwork(original.architecture, shape, original.grid)
    heads = torch.empty(compressed.heads.shape)
    for rows, into in zip(original.heads.split(_ROWS), heads.split(_ROWS), strict=True):
        into.copy_(rows.double() @ basis.synthesis)
    tensors = {name: tensor for name, tensor in original.state_dict().items() if name.startswith("hidden.")}
    tensors["heads"] = heads if dtype == "float32" else heads.to(DTYPES[dtype]).float()
    tensors["bias"] = (original.bias.double() + _matvec(original.heads, basis.mean)).to(DTYPES[bias]).float()
    tensors["basis.weight"], tensors["basis.bias"] = _projection(original, basis)
    compressed.load_state_dict(tensors, strict=True, assign=True)
    return compressed.requires_grad_(False).eval()


def fitted_spacings(grid: SpacingGrid) -> list[SnappedSpacing]:
    """Ends and middles of the trained range, and spacings drawn from it."""
    axes = [(low, (low + high) / 2, high) for low, high in grid.range_mm]
    corners = [grid.clamp(grid.snap(mm)) for mm in itertools.product(*axes)]
    return corners + draw_spacings(grid, _FITTED_DRAWS, _FITTED_SEED)


def held_out_spacings(grid: SpacingGrid) -> list[SnappedSpacing]:
    """Spacings of the trained range that no basis is fitted to; only a range of very few spacings has none."""
    fitted = set(fitted_spacings(grid))
    drawn = draw_spacings(grid, _HELD_OUT_DRAWS, _HELD_OUT_SEED)
    return [spacing for spacing in drawn if spacing not in fitted] or drawn


def _smallest_rank(
    original: Hypernetwork, basis: Basis, spacings: list[SnappedSpacing], probe: Probe, tolerance: float
) -> int:
    """Found by halving, without building any heads: features are projected and given to the original's."""
    comparison = LogitComparison(original.architecture, original.generate, spacings, probe)

    def within_tolerance(rank: int) -> bool:
        def generate(spacing: SnappedSpacing) -> Weights:
            return original.weights_of(basis.of_rank(rank).project(original.features(torch.tensor(spacing.mm))))

        return comparison.change(generate).largest <= tolerance

    ranks = range(1, len(basis.analysis))
    return 1 + bisect.bisect_left(ranks, True, key=within_tolerance)


def _candidates(rank: int, most: int, weights: int, size_bytes: int) -> Iterator[tuple[int, str]]:
    """(rank, dtype), from the rank that the search found upwards, as long as the file gets smaller."""
    for candidate in range(rank, most + 1):
        for dtype in ("float16", "float32"):
            if weights * (4 + candidate * DTYPES[dtype].itemsize) < size_bytes:
                yield candidate, dtype


def _features(hypernetwork: Hypernetwork, spacings: list[SnappedSpacing]) -> Tensor:
    with torch.inference_mode():
        return torch.stack([hypernetwork.features(torch.tensor(spacing.mm)) for spacing in spacings]).double()


def _gram(heads: Tensor) -> Tensor:
    """(features, features) float64, without a second copy of the heads."""
    return torch.stack([rows.double().T @ rows.double() for rows in heads.split(_ROWS)]).sum(dim=0)


def _matvec(heads: Tensor, features: Tensor) -> Tensor:
    return torch.cat([rows.double() @ features for rows in heads.split(_ROWS)])


def _projection(original: Hypernetwork, basis: Basis) -> tuple[Tensor, Tensor]:
    """Weight and bias of the linear layer; a compressed checkpoint's own layer is merged into it."""
    weight, bias = basis.analysis, -basis.analysis @ basis.mean
    if isinstance(original.basis, nn.Linear):
        bias = bias + weight @ original.basis.bias.double()
        weight = weight @ original.basis.weight.double()
    return weight.float(), bias.float()


def _manifest_of(checkpoint: Checkpoint, compressed: Hypernetwork, change: LogitChange) -> Manifest:
    record = {"from": checkpoint.digest, "largest_logit_change": change.largest, "rms_logit_change": change.rms}
    training = {**checkpoint.manifest.training, "compression": record}
    return checkpoint.manifest.model_copy(update={"hypernetwork": compressed.shape, "training": training})
