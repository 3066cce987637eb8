"""The courier: fetches series from archives for jobs, and delivers their results by webhook, DICOMweb and DIMSE."""
