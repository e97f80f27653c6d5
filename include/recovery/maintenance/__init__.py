"""What comes later: replaced data is dropped, holds are released."""
