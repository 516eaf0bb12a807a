"""The report of a pruning, as data and as a table."""

from dataclasses import asdict, dataclass, field
from typing import Any

from tabulate import tabulate

from ..cost.memory import MEMORY_WORDS
from .rounding import rounding_words


@dataclass
class PruningReport:
    """What :func:`blendprune.prune` did.

    Attributes:
        flops (dict[str, int]): ``"before"`` and ``"after"``, for the example inputs up to the raw
            head outputs; one multiply-add is one FLOP.
        params (dict[str, int]): ``"before"`` and ``"after"``.
        activations (dict[str, int]): numbers in the outputs of all convs and linears, likewise.
        layers (dict[str, dict[str, int]]): name of each conv and linear → its output channels,
            ``"before"`` and ``"after"``.
        flops_by_module (dict[str, dict[str, int]]): name of each module that computes → its FLOPs,
            without those of its children, ``"before"`` and ``"after"``.
        notes (list[str]): what did not take part and why, operators that count as 0 FLOPs, and
            heads whose FLOPs are those of many regions.
        wall_s (float): seconds.
        seconds (dict[str, float]): of the stages, which do not overlap: ``"tracing"`` (and proof),
            ``"counting"``, ``"scoring"`` (forwards and backwards), ``"dense features"`` (that the
            reconstruction aims at), ``"replay"`` (forwards of the pruned model for it),
            ``"solving"`` (its regressions), ``"latency"`` (timing), ``"checks"`` (own runs).
        latency_ms (dict[str, float]): ``"before"`` and ``"after"``, where it was the target.
        runtime (str): the form in which it was measured.
        memory_mb (dict[str, float]): likewise: megabytes (10^6 bytes) of the activation tensors
            that are alive together, at their peak in one forward of the example inputs up to the
            raw head outputs; weights do not count.
        uncounted_operators (list[str]): operators without a FLOPs formula; see
            :func:`blendprune.register_flops`.
        round_to (dict): what new widths are multiples of: ``"multiple"``, ``"auto"`` (whether the
            device decided), ``"reason"``.
    """

    flops: dict[str, int]
    params: dict[str, int]
    activations: dict[str, int]
    layers: dict[str, dict[str, int]]
    flops_by_module: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    latency_ms: dict[str, float] = field(default_factory=dict)
    runtime: str = ""
    memory_mb: dict[str, float] = field(default_factory=dict)
    uncounted_operators: list[str] = field(default_factory=list)
    round_to: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return asdict(self)


def pruning_table(report):
    """The report as a table: totals first, then every layer whose width changed.

    ::

                                          before    after  kept
        ------------------------------  --------  -------  ------
        FLOPs (M)                          12540     3860  31 %
        params (k)                         32300     8900  28 %
        activations (M)                     61.2     30.1  49 %
        backbone.bottom_up.stem.conv1         64       32  50 %
        …

        widths: multiples of 16 (auto: AVX-512, float32)

    Args:
        report (PruningReport): from :func:`blendprune.prune`.

    Returns:
        str: plain text.
    """
    rows = [
        _row("FLOPs (M)", report.flops, 1e6),
        _row("params (k)", report.params, 1e3),
        _row("activations (M)", report.activations, 1e6),
    ]
    if report.memory_mb:
        rows.append(_row("memory (MB)", report.memory_mb, 1))
    if report.latency_ms:
        rows.append(_row(f"latency (ms, {report.runtime})", report.latency_ms, 1))
    rows += [
        _row(name, widths, 1)
        for name, widths in report.layers.items()
        if widths["before"] != widths["after"]
    ]
    table = tabulate(rows, headers=["", "before", "after", "kept"])
    facts = [f"widths: {rounding_words(report.round_to)}"] if report.round_to else []
    facts += [MEMORY_WORDS] if report.memory_mb else []
    return "\n".join([table, "", *facts]) if facts else table


def _row(name, values, unit):
    before, after = values["before"], values["after"]
    shown = [
        round(value / unit) if value >= 10 * unit else round(value / unit, 2)
        for value in (before, after)
    ]
    return [name, *shown, f"{after / before:.0%}".replace("%", " %") if before else ""]
