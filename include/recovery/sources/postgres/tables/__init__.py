"""Single tables, exchanged in one transaction."""
