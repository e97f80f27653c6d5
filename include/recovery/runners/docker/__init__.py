"""Containers, by the API of a Docker Engine: `engine` finds a container of a plan, `tunnel` and `relay` lead to a server in it."""
