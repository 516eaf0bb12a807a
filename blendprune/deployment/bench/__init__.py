"""Dense and pruned models in every form that they are shipped in, timed in turns."""

from .bench import bench
from .forms import FORMS, check_forms
from .picture import draw_bench
from .table import bench_table

__all__ = ["FORMS", "bench", "bench_table", "check_forms", "draw_bench"]
