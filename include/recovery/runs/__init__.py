"""What a run writes down: the staged set, the request, the journal; which restores are active."""
