"""What jobs share: plans, run folders, training, measuring, results."""
