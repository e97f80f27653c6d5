"""Containers, by the API of a Docker Engine: `engine` opens an Engine and finds a container of a plan there."""
