"""What a run has to show for itself: latency, a table, a picture, and proof that files reload."""
