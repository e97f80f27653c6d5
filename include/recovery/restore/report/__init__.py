"""What a restore or drill reports at its end."""
