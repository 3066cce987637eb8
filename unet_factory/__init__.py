"""U-Net factory: segmentation networks made to measure for a scan's voxel spacing.

``load_unet`` reads a standalone network; it needs torch and safetensors, which are imported when it is first asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unet_factory.model.checkpoint import load_unet
else:

    def __getattr__(name: str) -> object:
        if name != "load_unet":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from unet_factory.model.checkpoint import load_unet

        return load_unet

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = ["__version__", "load_unet"]
