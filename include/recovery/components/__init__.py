"""The kinds of thing a plan protects; ``make`` gives the component of a source."""
