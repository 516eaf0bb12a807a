"""The folder of a pruned model: a checkpoint, its config and its report, which belong together."""

import json
import os

import torch

from .. import structure
from ..checkpoint import checkpoint_id, read_checkpoint
from ..checkpoint.reading import weights_in
from ..config.plain import read_plain_yaml
from ..files import explained_write, staged
from ..wrappers import plain_state


def write_folder(folder, model, cfg, report, page):
    """Write all files, or none.

    Args:
        folder (str): a local one, made if needed.
        model (nn.Module): pruned.
        cfg (CfgNode): that fine-tunes it; gets PRUNER.CHECKPOINT_ID.
        report (dict): plain data.
        page (str): HTML.

    Returns:
        str: the ``checkpoint_id`` that the files share.

    Raises:
        CheckpointError: the folder cannot be written to.
    """
    weights = plain_state(model)
    own = checkpoint_id(weights)
    cfg.PRUNER.CHECKPOINT_ID = own
    names = ("report.json", "report.html", "config.yaml", "model_pruned.pth")
    paths = [os.path.join(folder, name) for name in names]
    with explained_write(folder):
        os.makedirs(folder, exist_ok=True)
        with staged(*paths) as (report_at, page_at, config_at, at):
            with open(report_at, "w") as file:
                json.dump({"checkpoint_id": own, **report}, file, indent=2)
            with open(page_at, "w", encoding="utf-8") as file:
                file.write(page)
            with open(config_at, "w") as file:
                file.write(cfg.dump())
            struct = structure.structure_of(model)
            torch.save({"model": weights, "struct": struct, "checkpoint_id": own}, at)
    return own


def read_report(folder, own):
    """Read the report, if all files are whole and of one prune.

    Args:
        folder (str): that :func:`write_folder` has written.
        own (str): the ``checkpoint_id`` that it returned.

    Returns:
        dict: the report.

    Raises:
        ValueError: the files are of another prune.
        Exception: of any type; a file is gone or broken.
    """
    with open(os.path.join(folder, "report.json")) as file:
        report = json.load(file)
    with open(os.path.join(folder, "config.yaml")) as file:
        cfg = read_plain_yaml(file.read())
    checkpoint = read_checkpoint(os.path.join(folder, "model_pruned.pth"))
    weights = checkpoint_id(weights_in(checkpoint))
    ids = (report.pop("checkpoint_id"), cfg["PRUNER"]["CHECKPOINT_ID"], checkpoint["checkpoint_id"])
    if {*ids, weights} != {own}:
        raise ValueError(f"{folder} has files of another prune")
    return report
