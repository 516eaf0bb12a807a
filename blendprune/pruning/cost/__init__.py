"""FLOPs, parameters, activations, memory and latency."""
