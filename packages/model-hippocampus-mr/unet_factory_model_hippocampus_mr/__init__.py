"""The model hippocampus-mr of U-Net factory: files only."""
