"""Releases of Python, PyTorch, detectron2 and AdelaiDet: which patches apply, which tests pass."""
