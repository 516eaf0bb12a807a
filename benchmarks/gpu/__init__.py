"""Speed of dense and pruned models on a GPU."""
