"""Channels of groups removed for a moment."""

import contextlib

import torch
from torch import nn

from ..tracing.attributes import sync_widths
from ..tracing.layer_kinds import is_prunable_layer, output_width
from ..tracing.snapshot import Snapshot


def chosen_channels(group, number=0):
    """Which channels to remove from a group to see what happens: the ends, and some of the rest.

    Whole blocks go, the same of each part. Groups of different numbers lose different channels and
    counts, up to half: code that takes the width of one for that of another shows.

    Args:
        group (ChannelGroup): that may be pruned.
        number (int): of the group.

    Returns:
        list[Tensor]: channels; two choices where the first and the last cannot go together.
    """
    blocks = group.width // (group.num_parts * group.block_size)
    count = min(blocks - group.min_part_width, max(2, blocks // 2 - number % max(1, blocks // 4)))
    random = torch.Generator().manual_seed(number)
    inner = (1 + torch.randperm(max(0, blocks - 2), generator=random)).tolist()
    # In a group of one block and a half, either end goes, one after the other.
    ends = [[0, blocks - 1], [blocks - 1, 0]][: 2 if count == 1 else 1]
    channels = torch.arange(group.width).view(group.num_parts, blocks, group.block_size)
    return [channels[:, (end + inner)[:count]].flatten() for end in ends]


@contextlib.contextmanager
def removing(graph, gone):
    """Remove channels of several groups at once, until the block ends.

    The graph stays as it was: what it describes is the model outside the block.

    Args:
        graph (ChannelGraph): of a model inside the prunable view.
        gone (list[tuple[ChannelGroup, Tensor]]): its groups, and channels of each.
    """
    snapshot = Snapshot(graph.model)
    try:
        for dependency, entries in _removals(graph, gone):
            layer = dependency.target.module
            if isinstance(layer, nn.Module):
                dependency(entries)
            else:
                _remove_from_parameter(graph, dependency, entries)
        sync_widths(graph.model)
        yield
    finally:
        snapshot.restore()


def kept_outputs(gone):
    """The outputs that convs and linears keep.

    Args:
        gone (list[tuple[ChannelGroup, Tensor]]): groups, and channels to remove from each.

    Returns:
        dict[nn.Module, Tensor]: layer → numbers of the outputs that stay; without the layers that
        lose none.
    """
    kept = {}
    for group, channels in gone:
        for side in group.sides:
            if not side.reads and is_prunable_layer(side.layer):
                every = side.layer.weight.new_ones(output_width(side.layer), dtype=torch.bool)
                mask = kept.setdefault(side.layer, every)
                mask[side.entries_of(channels).to(mask.device)] = False
    return {layer: mask.nonzero().flatten() for layer, mask in kept.items()}


def _removals(graph, gone):
    """What to take from each side of each layer, all groups together, by Torch-Pruning."""
    found = {}
    for group, channels in gone:
        channels = set(channels.tolist())
        for item in group.handle:
            module = item.dep.target.module
            if isinstance(module, nn.Parameter) or module in graph.names:
                entries = [i for i, root in zip(item.idxs, item.root_idxs) if root in channels]
                key = module, item.dep.handler
                found.setdefault(key, (item.dep, set()))[1].update(entries)
    return [(dependency, sorted(entries)) for dependency, entries in found.values() if entries]


def _remove_from_parameter(graph, dependency, entries):
    parameter = dependency.target.module
    path, _, name = graph.dependencies._param_to_name[parameter].rpartition(".")
    owner = graph.model.get_submodule(path)
    dependency.handler.__self__.pruning_dim = dependency.target.pruning_dim
    owner._parameters[name] = dependency.handler(owner._parameters[name], entries)
