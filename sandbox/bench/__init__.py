"""`make bench`: measure against the usual script."""
