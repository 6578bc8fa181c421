"""The losses that a search lowers, and how each is evaluated fast."""
