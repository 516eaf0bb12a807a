"""The results as tables."""

import os


def zoo_tables(results):
    """The results as tables in Markdown, one a kind of config.

    Args:
        results (dict[str, dict]): name of a config → what :func:`run_config` gave.

    Returns:
        str: for each kind a heading, one row a config, and how many are green.
    """
    sections = {}
    for name, found in results.items():
        sections.setdefault(_kind(name), {})[name] = found
    return "\n\n".join(f"## {kind}\n\n{_table(rows)}" for kind, rows in sections.items())


def _kind(name):
    if name.startswith("AdelaiDet/"):
        return "AdelaiDet"
    if name.startswith("projects/"):
        return "detectron2's projects"
    return "detectron2, LazyConfigs" if name.endswith(".py") else "detectron2, yaml"


def _table(results):
    rows = ["| config | GFLOPs | after | M params | after | |", "|---|---|---|---|---|---|"]
    for name, found in results.items():
        cells = []
        for kind, unit in (("flops", 1e9), ("params", 1e6)):
            values = found.get(kind, {})
            cells += [f"{values[k] / unit:.2f}" if values else "" for k in ("before", "after")]
        reason = found["result"].replace("|", "\\|")
        for root in ("ADELAIDET_ROOT", "DETECTRON2_ROOT"):
            reason = reason.replace(os.environ.get(root) or "\0", "…")
        rows.append(f"| {name} | {' | '.join(cells)} | {reason} |")
    green = sum(found["result"] == "green" for found in results.values())
    return "\n".join([*rows, "", f"{green} of {len(results)} green."])
