"""Networks as graphs of operations: recorded, checked, built again."""
