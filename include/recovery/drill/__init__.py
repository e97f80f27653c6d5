"""Choose, start and finish a drill."""
