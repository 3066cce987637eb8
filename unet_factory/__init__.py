"""U-Net factory: segmentation networks made to measure for a scan's voxel spacing."""

__version__ = "0.1.0"
