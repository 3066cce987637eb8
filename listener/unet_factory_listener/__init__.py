"""The DIMSE listener: scanners and archives send series by C-STORE, the gateway gets them by STOW-RS."""
