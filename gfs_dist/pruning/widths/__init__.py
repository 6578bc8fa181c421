"""How many channels each layer keeps: budgets, costs, allocation, exchange."""
