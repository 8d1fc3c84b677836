"""Heads that work on regions of interest."""
