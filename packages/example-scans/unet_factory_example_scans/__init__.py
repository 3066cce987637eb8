"""The scans of U-Net factory's demo, with expert labels: files only."""
