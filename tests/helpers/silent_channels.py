"""Channels without any effect, and their removal."""

import torch

from blendprune.pruning import (
    prunable,
    prune,
)
from blendprune.pruning.tracing.layer_kinds import is_norm, is_prunable_layer


def prune_the_dead(model, images, dead):
    # Dead channels score 0, all others 1, whatever their weights.
    return prune(
        model,
        images,
        pruning_ratio=0.5,
        global_pruning=False,
        rounds=1,
        importance=lambda group: dead[group[0].dep.target.module],
    )


def silence_half_of_every_group(model, images):
    """Zero what half the channels of each group feed; scores by root module, 0 for those."""
    from blendprune.pruning import ChannelGraph

    generator = torch.Generator().manual_seed(0)
    dead = {}
    with prunable(model), torch.no_grad():
        for group in ChannelGraph(model, images).groups():
            if group.frozen_reason:
                continue
            size, block = group.width // group.num_parts, group.block_size
            blocks = torch.randperm(size // block, generator=generator)[: size // block // 2]
            at = (blocks[:, None] * block + torch.arange(block)).flatten()
            gone = torch.cat([part * size + at for part in range(group.num_parts)])
            score = torch.ones(group.width)
            score[gone] = 0
            dead[group.handle[0].dep.target.module] = score
            gone = set(gone.tolist())
            for item in group.handle:
                layer = item.dep.target.module
                at = [i for i, root in zip(item.idxs, item.root_idxs) if root in gone]
                if is_norm(layer):
                    layer.weight[at] = 0
                    layer.bias[at] = 0
                elif is_prunable_layer(layer) and "out" in item.dep.handler.__name__:
                    outputs = getattr(layer, "transposed", False)
                    layer.weight.transpose(0, int(outputs))[at] = 0
                    if layer.bias is not None:
                        layer.bias[at] = 0
    return dead
