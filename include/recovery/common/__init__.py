"""Errors, units, files, deadlines, wording: what every room may use."""
