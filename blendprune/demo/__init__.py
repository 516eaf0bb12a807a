"""The demo: digit scenes, a trainer for them, and the whole story in one run."""
