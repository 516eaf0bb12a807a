"""The report of a pruning run, as a table."""
