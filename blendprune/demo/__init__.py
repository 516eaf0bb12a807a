"""The demo: the full workflow in one run; a trainer and a training script for digit scenes."""
