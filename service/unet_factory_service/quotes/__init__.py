"""Prices before anything is uploaded."""
