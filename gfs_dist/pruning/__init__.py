"""What can be pruned in a network, and how: problems for the search, and cutting."""
