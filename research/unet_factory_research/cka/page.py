"""The analysis as a page of Markdown, written from its summary alone: the paper's findings beside these."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unet_factory_research.cka.options import spacing_text
from unet_factory_research.cka.regions import DECODER, ENCODER, OTHER, SKIP_CONNECTED

Summary = Mapping[str, Any]

_PANELS = """(a, b) within the networks of the finest and the coarsest spacing; (e, f) between the network of the finest
spacing and those of the middle and the coarsest one; (c, g) slope of a linear model of every entry against spacing, for
the maps within and across; (d) distance between layers, and above the diagonal which have the same size in space, lines
for skip connections; (h) two hypernetworks of different seed at the finest spacing. Layers stand in the order in which
they run, convolution and ReLU in turn; the level is 0 for layers of the input's size. All but (h) show {first}."""

_HOW = """## How this is measured

- A sample is a crop of a scan; its features are everything that a layer makes of it. Linear CKA, HSIC {estimator},
  averaged over mini-batches of crops of different scans.
- Scans are resampled to the network's own spacing. The network sees the crop with half its extent around it, as far as
  the scan goes. What a layer makes of it is brought to the crop by linear interpolation, at as many points as the layer
  has voxels there, so all layers of all networks are compared over the same cube in millimetres.
- A region's rate is the mean slope of its entries, per mm.
"""


def publish_page(summary: Summary, command: str, output: Path, names: Sequence[str], folder: Path) -> None:
    """Write ``FOLDER.md`` and copy the files ``names`` of ``output``, a figure first, to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(output / name, folder)
    folder.with_suffix(".md").write_text(page_of(summary, command, f"{folder.name}/{names[0]}"))


def page_of(summary: Summary, command: str, figure: str) -> str:
    """The page; ``figure`` is the path of the picture from it."""
    options, spacings = summary["options"], [spacing_text(spacing) for spacing in summary["spacings_mm"]]
    checkpoints = list(summary["checkpoints"])
    intro = (
        f"Written by\n\n```\n{command}\n```\n\non {summary['scans']} scans of the {options['split']} split of "
        f"{summary['data']}, {options['crops']} crop(s) of {options['crop_mm']:g} mm each, at {len(spacings)} spacings "
        f"from {spacings[0]} to {spacings[-1]}, {summary['layers']} layers."
    )
    caption = _PANELS.format(first=checkpoints[0])
    sections = [
        "# How alike the generated networks' layers are",
        intro,
        f"![Maps of CKA]({figure})\n\n{caption}",
        _within(summary, spacings),
        _across(summary, spacings),
        _between(summary, spacings),
        _HOW.format(estimator=options["estimator"]),
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def _within(summary: Summary, spacings: Sequence[str]) -> str:
    """Paper: stable over resolutions; coarser, less is preserved within branches than along skip connections."""
    rows = [
        [checkpoint, region, _number(found["mean"][0]), _number(found["mean"][-1]), _number(found["rate"], sign=True)]
        for checkpoint, own in summary["within"].items()
        for region in (SKIP_CONNECTED, ENCODER, DECODER, OTHER)
        if (found := own["by_region"].get(region))
    ]
    spreads = ", ".join(f"{own['spread']:.3f} ({checkpoint})" for checkpoint, own in summary["within"].items())
    return (
        "## Within a network\n\n"
        "The paper: these maps are stable over spacings; where it is coarser, layers of the same size on the two sides "
        "of skip connections are marginally more alike, layers within a branch less.\n\n"
        f"Here an entry's standard deviation over the spacings is {spreads}, mean over entries. Mean CKA of pairs of "
        "layers:\n\n" + _table(["checkpoint", "layers", spacings[0], spacings[-1], "rate per mm"], rows)
    )


def _across(summary: Summary, spacings: Sequence[str]) -> str:
    rows = [
        [checkpoint, level, _number(values[len(spacings) // 2]), _number(values[-1])]
        for checkpoint, own in summary["across"].items()
        for level, values in own["same_layer_by_level"].items()
    ]
    shifts = [
        [checkpoint, *pair.split(","), _number(values[0]), _number(values[-1])]
        for checkpoint, own in summary["across"].items()
        for pair, values in own["encoder_levels"].items()
    ]
    least = "; ".join(f"{', '.join(own['least_alike'])} ({name})" for name, own in summary["across"].items())
    return (
        "## Across the spacings of one hypernetwork\n\n"
        "The paper: the central layers are the least alike.\n\n"
        f"Here CKA of a layer with the same layer of the network for {spacings[0]}, by level:\n\n"
        + _table(["checkpoint", "level", spacings[len(spacings) // 2], spacings[-1]], rows)
        + f"\n\nLeast alike at {spacings[-1]}: {least}.\n\n"
        "Voxels of a level grow with the spacing, so a level of a coarser network may do in mm what the next one did. "
        f"Mean CKA of the encoder's levels for {spacings[0]} with neighbouring levels of another network's encoder:\n\n"
        + _table(["checkpoint", f"level, {spacings[0]}", "level, other", *(spacings[0], spacings[-1])], shifts)
    )


def _between(summary: Summary, spacings: Sequence[str]) -> str:
    if not summary["between"]:
        return ""
    rows = []
    for pair, own in summary["between"].items():
        levels = [f"{level}: {_number(values[0])}" for level, values in own["same_layer_by_level"].items()]
        rows.append([pair, "; ".join(levels), _number(own["matched"][0]), _number(own["within_differs"][0])])
    head = ["pair", "same layer, by level", "share of layers matched", "mean difference of the maps within"]
    return (
        "## Across hypernetworks\n\n"
        "The paper: early layers are alike, spatially coarse ones correspond little one to one; the maps within do not "
        f"depend on the seed.\n\nHere at {spacings[0]}, where a layer is matched if no layer of the other network is "
        "more like it than its own:\n\n" + _table(head, rows)
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None, sign: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if sign else ''}.3f}"
