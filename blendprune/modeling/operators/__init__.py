"""Upstream's operators in plain PyTorch, for machines where upstream is not compiled."""
