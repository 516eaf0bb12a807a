"""Export: a model's cores as ONNX files, checked against PyTorch."""

from .export import IMAGES, check_path, export
from .exported import Exported, exported_table

__all__ = ["IMAGES", "Exported", "check_path", "export", "exported_table"]
