"""What training and segmenting took, as sections of a comparison's page."""

from collections.abc import Mapping
from typing import Any

from unet_factory_research.comparison.markdown import millimetres, table

Summary = Mapping[str, Any]


def training_costs(summary: Summary) -> str:
    rows = [
        [
            row["arm"],
            str(row["trainings"]),
            f"{row['iteration']:.0f}",
            f"{row['voxels'] / 1e6:.1f}",
            f"{row['seconds']:.0f}",
            f"{row['cpu_seconds']:.0f}",
            f"{row['voxels'] / row['iteration']:.0f}",
            f"{row['cpu_seconds'] / row['iteration']:.3f}",
        ]
        for row in summary["training"]
    ]
    head = [
        "arm",
        "trainings",
        "steps",
        "million voxels",
        "seconds",
        "CPU seconds",
        "voxels a step",
        "CPU seconds a step",
    ]
    intro = (
        "Means over the trainings of an arm. Seconds are those of the steps and of waiting for their batches; CPU "
        "seconds those of the training process alone, the steadier measure on a machine that does other work too."
    )
    return "## What training took\n\n" + intro + "\n\n" + table(head, rows) if rows else ""


def segmentation_costs(summary: Summary) -> str:
    cost = summary["cost"]
    if not cost:
        return ""
    rows = [
        [
            row["arm"],
            millimetres([row["spacing_r_mm"], row["spacing_a_mm"], row["spacing_s_mm"]]),
            f"{row['voxels']}",
            f"{row['seconds']:.3f}",
            f"{row['cpu_seconds']:.3f}",
            f"{row['peak_bytes'] / 2**20:.1f}",
        ]
        for row in cost["rows"]
    ]
    first = cost["rows"][0]
    sizes = ", ".join(
        f"{arm} {size / 2**20:.1f} MiB"
        for arm, size in {row["arm"]: row["checkpoint_bytes"] for row in cost["rows"]}.items()
    )
    intro = (
        f"A scan of {millimetres(cost['extent_mm'])}, device {first['device']}, {first['threads']} CPU thread(s), "
        f"medians of {first['repeats']} interleaved repeats. Peak memory is what the segmentation adds to a fresh "
        f"process that has loaded the checkpoint ({sizes}). On a CPU that others use too, CPU time is the steadier "
        "measure."
    )
    head = ["arm", "spacing (R,A,S)", "voxels", "time [s]", "CPU time [s]", "peak memory [MiB]"]
    return "## Time and memory\n\n" + intro + "\n\n" + table(head, rows)
