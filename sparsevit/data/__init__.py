"""Readers of data sets, and the embedded digits set."""
