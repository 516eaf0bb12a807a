"""AP after pruning, compared with other ways to a smaller model."""
