"""Roles, memberships and other globals of a server."""
