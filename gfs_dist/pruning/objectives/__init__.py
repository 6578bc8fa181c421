"""The objectives that pruning gives to the search."""
