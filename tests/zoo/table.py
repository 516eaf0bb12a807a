"""The results as tables."""

import os

PRUNED = ("config", "GFLOPs", "after", "M params", "after", "")
EXPORTED = ("config", "family", "files", "MB", "difference", "")


def zoo_tables(results, columns=PRUNED):
    """The results as tables in Markdown, one a kind of config.

    Args:
        results (dict[str, dict]): name of a config → what :func:`run_config` gave.
        columns (tuple[str]): :data:`PRUNED` or :data:`EXPORTED`.

    Returns:
        str: for each kind a heading, one row a config, and how many are green.
    """
    sections = {}
    for name, found in results.items():
        sections.setdefault(_kind(name), {})[name] = found
    return "\n\n".join(f"## {kind}\n\n{_table(rows, columns)}" for kind, rows in sections.items())


def _kind(name):
    if name.startswith("AdelaiDet/"):
        return "AdelaiDet"
    if name.startswith("projects/"):
        return "detectron2's projects"
    return "detectron2, LazyConfigs" if name.endswith(".py") else "detectron2, yaml"


def _table(results, columns):
    cells_of = {PRUNED: _pruned, EXPORTED: _exported}[columns]
    rows = [f"| {' | '.join(columns)} |".replace("  |", " |"), "|---" * len(columns) + "|"]
    for name, found in results.items():
        reason = found["result"].replace("|", "\\|")
        for root in ("ADELAIDET_ROOT", "DETECTRON2_ROOT"):
            reason = reason.replace(os.environ.get(root) or "\0", "…")
        rows.append(f"| {' | '.join([name, *cells_of(found), reason])} |")
    green = sum(found["result"] == "green" for found in results.values())
    return "\n".join([*rows, "", f"{green} of {len(results)} green."])


def _pruned(found):
    cells = []
    for kind, unit in (("flops", 1e9), ("params", 1e6)):
        values = found.get(kind, {})
        cells += [f"{values[k] / unit:.2f}" if values else "" for k in ("before", "after")]
    return cells


def _exported(found):
    if "family" not in found:
        return [""] * 4
    files, mb = str(found["files"]), f"{found['mb']:.1f}"
    return [found["family"], files, mb, f"{found['difference']:.0e}"]
