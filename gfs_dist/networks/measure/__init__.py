"""What is measured of a network: loss, accuracy, multiply-adds, latency."""
