"""FLOPs, parameters, activations and latency."""
