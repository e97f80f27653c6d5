"""Whole databases: staged, swapped, restored in place."""
