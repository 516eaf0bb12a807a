"""Operators of upstream in PyTorch, for machines where upstream is not compiled."""
