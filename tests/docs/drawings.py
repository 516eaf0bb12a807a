"""The drawings of ``docs/how-it-works.md``, as SVG with a light ground of its own.

So they look alike in a light and in a dark page.
"""

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

_GROUND, _INK, _GRAY = "#fbfbf9", "#222222", "#6b7280"
_WHITE, _BLUE, _GREEN, _ORANGE, _PALE = "#ffffff", "#dbeafe", "#dcfce7", "#ffedd5", "#f3f4f6"
_STYLE = {"svg.hashsalt": "blendprune", "font.family": "DejaVu Sans", "font.size": 10}


class Drawing:
    """Boxes, arrows and words on a ground; one unit is a tenth of an inch.

    Args:
        width (float): of the drawing.
        height (float): likewise.
    """

    def __init__(self, width, height):
        self._figure = Figure((width / 10, height / 10), facecolor=_GROUND)
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, width), ylim=(0, height))
        self._axes.axis("off")

    def box(self, x, y, width, height, text="", color=_WHITE, size=9.5, edge=_GRAY, **style):
        """A box with its lower left corner at (x, y), and words in it."""
        style = {"linewidth": 1, **style}
        kind = "round,pad=0,rounding_size=0.8"
        patch = FancyBboxPatch(
            (x, y), width, height, boxstyle=kind, facecolor=color, edgecolor=edge, **style
        )
        self._axes.add_patch(patch)
        self.text(x + width / 2, y + height / 2, text, size=size)

    def text(self, x, y, text, size=9.5, color=_INK, **style):
        """Words around (x, y)."""
        style = {"ha": "center", "va": "center", "linespacing": 1.35, **style}
        self._axes.text(x, y, text, fontsize=size, color=color, **style)

    def arrow(self, start, end, color=_INK, **style):
        """An arrow between two points."""
        style = {"arrowstyle": "-|>", "mutation_scale": 11, "linewidth": 1.2, **style}
        self._axes.add_patch(
            FancyArrowPatch(start, end, color=color, shrinkA=0, shrinkB=0, **style)
        )

    def save(self, path):
        """Write the drawing; the same for the same release of matplotlib."""
        self._figure.savefig(path, metadata={"Date": None, "Creator": None})


def overlay():
    """What is patched, and where (Drawing)."""
    d = Drawing(76, 36)
    d.text(2, 33.5, "On disk: unmodified", 10, ha="left", weight="bold")
    d.box(2, 20, 17, 10, "your train_net.py\n\nimport blendprune\nblendprune.apply()", size=9)
    d.box(2, 11.5, 17, 6, "detectron2")
    d.box(2, 3, 17, 6, "AdelaiDet")

    d.text(27, 33.5, "In memory, in this process", 10, ha="left", weight="bold")
    d.box(26, 2, 48, 29, color=_PALE)
    d.box(29, 20, 12, 10, "blendprune\n\npatches, for\nknown sources", _BLUE, size=9)
    rows = (
        ("BasicBlock", "norms are modules of their own"),
        ("DetectionCheckpointer", "saves the structure, too"),
        ("build_model, BlendMask", "MODEL.FINETUNE: narrower layers"),
        ("DefaultTrainer", "MODEL.PRUNE: prune, not train"),
    )
    for row, (name, change) in enumerate(rows):
        y = 25.6 - 5.2 * row
        d.box(46, y, 26, 4.4, color=_GREEN)
        d.text(47, y + 3.05, name, 8.5, ha="left", weight="bold")
        d.text(47, y + 1.25, change, 8.5, ha="left")
    d.text(59, 7.4, "everything else: upstream's own code", 8.5, _GRAY)
    d.arrow((19, 25), (29, 25))
    d.text(22.5, 26.4, "apply()", 8.5)
    for row in range(4):
        d.arrow((41, 25), (46, 27.8 - 5.2 * row))
    d.arrow((19, 14.5), (26, 14.5))
    d.arrow((19, 6), (26, 6))
    d.text(22.5, 15.9, "import", 8.5)
    d.text(22.5, 7.4, "import", 8.5)
    d.text(50, 3.8, "blendprune.revert() restores every name exactly", 8.5, _GRAY)
    return d


def tracing_view():
    """What Torch-Pruning sees without the view and inside it (Drawing)."""
    d = Drawing(76, 38)
    d.text(19, 35.5, "detectron2's Conv2d", 10, weight="bold")
    d.box(3, 10.5, 32, 22.5, color=_PALE)
    d.text(19, 31.2, "one module, three operators", 8.5, _GRAY)
    d.box(9, 25, 20, 4, "conv", _BLUE)
    d.box(9, 19, 20, 4, "batch norm", _ORANGE)
    d.box(9, 13, 20, 4, "relu")
    d.arrow((19, 25), (19, 23))
    d.arrow((19, 19), (19, 17))
    words = (
        "A dependency graph has one operator for each\n"
        "module. It prunes the conv and not the norm:\n"
        "“running_mean should contain 32 elements not 64”"
    )
    d.text(19, 5.4, words, 8.5)

    d.text(57, 35.5, "inside blendprune.prunable(model)", 10, weight="bold")
    d.box(41, 10.5, 32, 22.5, color=_PALE)
    d.text(57, 31.2, "the same object, parameters and names", 8.5, _GRAY)
    d.box(44, 25, 12, 4, "conv", _BLUE)
    d.box(44, 19, 12, 4, "norm", _ORANGE)
    d.box(44, 13, 12, 4, "next conv", _BLUE)
    d.arrow((50, 25), (50, 23))
    d.arrow((50, 19), (50, 17))
    words = (
        "one group:\n\noutput 7 of the\nconv, entry 7 of\nthe norm, input 7\n"
        "of the next conv\ngo together"
    )
    d.box(58, 12.2, 13.5, 17.6, words, _GREEN, size=8.5)
    for y in (27, 21, 15):
        d.arrow((58, y), (56, y), _GRAY, arrowstyle="-")
    words = (
        "module.__class__ is exchanged for a moment.\n"
        "On leaving, everything is as before,\nwith fewer channels."
    )
    d.text(57, 5.4, words, 8.5)
    d.arrow((35.6, 21.5), (40.4, 21.5))
    return d


def pipeline():
    """From a dense checkpoint to a deployed model (Drawing)."""
    d = Drawing(76, 33)
    steps = (
        ("prune", "which channels\nmatter least?\nremove them", _BLUE),
        ("reconstruct", "refit what is left\nto the dense\nmodel's outputs", _GREEN),
        ("fine-tune", "train on, with\nyour script and\nyour labels", _ORANGE),
        ("deploy", "fold norms,\nhalf precision\nor int8, ONNX", _BLUE),
    )
    d.box(1.5, 15, 9, 9, "dense\nmodel", size=9.5)
    for index, (name, words, color) in enumerate(steps):
        x = 14 + 15.6 * index
        d.arrow((x - 3.3, 19.5), (x, 19.5))
        d.box(x, 13, 12.2, 13, color=color)
        d.text(x + 6.1, 23.6, name, 10, weight="bold")
        d.text(x + 6.1, 18, words, 8.3)
    d.arrow((35.7, 26.3), (20.1, 26.3), connectionstyle="arc3,rad=0.25")
    d.text(27.9, 30.4, "again, until the target is met", 8.3, _GRAY)
    files = (
        (6, "model_final.pth"),
        (35.7, "model_pruned.pth\nconfig.yaml\nreport.html"),
        (51.3, "finetune/\nmodel_final.pth"),
        (66.9, "model.onnx"),
    )
    for x, name in files:
        d.text(x, 11.8, name, 8, family="DejaVu Sans Mono", va="top")
    d.arrow((14, 2.4), (41.8, 2.4), _GRAY, arrowstyle="|-|", mutation_scale=3)
    d.text(27.9, 4, "blendprune prune: images, no training", 8.3, _GRAY)
    return d


_DRAWINGS = {"overlay": overlay, "tracing-view": tracing_view, "pipeline": pipeline}


def draw_all(folder):
    """Draw all drawings.

    Args:
        folder (Path): to write to.

    Returns:
        list[Path]: the files.
    """
    paths = []
    for name, draw in _DRAWINGS.items():
        with matplotlib.rc_context(_STYLE):
            draw().save(path := folder / f"{name}.svg")
        paths.append(path)
    return paths
