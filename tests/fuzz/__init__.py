"""Mutated files of all formats: read as an independent reader reads them, or refused in our own words."""
