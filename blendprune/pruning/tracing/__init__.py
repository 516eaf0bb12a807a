"""Tracing: the prunable view of a model, and what autograd's graph tells."""
