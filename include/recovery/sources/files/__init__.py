"""Folders with everything in them."""
