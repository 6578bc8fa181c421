"""What is done to a cut network so that it computes again what the dense one did."""
