"""Named files and folders that hold settings or code."""
