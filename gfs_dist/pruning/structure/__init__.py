"""What can be removed from a network together, and its removal."""
