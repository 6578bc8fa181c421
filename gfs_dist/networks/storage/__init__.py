"""How networks are stored and read back."""
