"""U-Net factory: segmentation networks made to measure for a scan's voxel spacing.

``segment`` segments a scan in this process; ``load_unet`` reads a standalone network. What they need (torch, nibabel)
is imported when they are first asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unet_factory.model.checkpoint import load_unet
    from unet_factory.model.segment_image import segment
else:

    def __getattr__(name: str) -> object:
        if name == "load_unet":
            from unet_factory.model.checkpoint import load_unet

            return load_unet
        if name == "segment":
            from unet_factory.model.segment_image import segment

            return segment
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = ["__version__", "load_unet", "segment"]
