"""DICOMweb (PS3.18): series received by STOW-RS become jobs by rules; their results answer QIDO-RS and WADO-RS."""
