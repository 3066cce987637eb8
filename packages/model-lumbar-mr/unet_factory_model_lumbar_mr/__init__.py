"""The model lumbar-mr of U-Net factory: files only."""
