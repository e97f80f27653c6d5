"""Age recipients and identities, signatures, key creation."""
