"""Layer by layer: second moments, paths, and weights refitted from front to back."""
