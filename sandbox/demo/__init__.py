"""`make demo`: back up, destroy and restore a sample system."""
