"""The model heart-mr of U-Net factory: files only."""
