"""Dump databases, and read the archives back."""
