"""The settings of each kind of source, a module each."""
