"""Restore a set: choose, preflight, stage, verify, cut over, roll back; approvals."""
