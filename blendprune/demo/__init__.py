"""The demo: a trainer for digit scenes, and the full workflow in one run."""
