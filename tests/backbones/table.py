"""The results as a table."""

import re


def backbone_table(results):
    """The results as a document in Markdown.

    Args:
        results (dict[str, dict]): name of a backbone → what ``run_backbone`` gave.

    Returns:
        str: one row a backbone: FLOPs left, what stays and why.
    """
    rows = ["| backbone | FLOPs left | what stays, and why |", "|---|---|---|"]
    for name, found in results.items():
        flops = found.get("flops")
        left = f"{flops['after'] / flops['before']:.2f}" if flops else ""
        text = _staying(found["notes"]) if found["result"] == "green" else found["result"]
        rows.append(f"| {name} | {left} | {text.replace('|', '¦')} |")
    green = sum(found["result"] == "green" for found in results.values())
    return "\n".join([_HEAD, *rows, "", f"{green} of {len(results)} green.", ""])


def _staying(notes):
    counts = {}
    for note in notes:
        if found := re.fullmatch(r"[\w.]+: all \d+ channels stay: (.*)", note):
            # Names of layers differ, reasons hardly do.
            reason = re.sub(r"[\w.]*\.(\w+)", r"…\1", found[1])
            counts[reason] = counts.get(reason, 0) + 1
    return "; ".join(f"{count} groups: {reason}" for reason, count in counts.items())


_HEAD = """# Backbones of torchvision and timm

`python -m tests.backbones --table docs/backbones.md` writes this page. Each backbone stands in a
small RetinaNet with random weights. The model is pruned to half its FLOPs by magnitude in one
round, run, trained one step, saved, loaded, and compared bit by bit. A group is a set of layers
that share their channels. Prediction layers keep their width in every model and are not listed.
"""
