"""File trees: walk, compare and swap them; the library of `files` and `config`."""
