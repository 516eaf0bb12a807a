"""The demo: digit scenes, a trainer for them, and the full workflow in one run."""
