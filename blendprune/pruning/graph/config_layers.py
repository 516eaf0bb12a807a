"""Layers whose output width the config decides, not pruning."""

from ...structure import entry_of, named_modules


def config_layers(graph, groups):
    """Names of the prediction layers, and of modules that no group of channels contains.

    Their widths follow from classes, anchors, keypoints or characters. A model that is fine-tuned
    on other data has others.

    Args:
        graph (ChannelGraph): of a model inside the prunable view.
        groups (list[ChannelGroup]): all its groups.

    Returns:
        list[str]: module names of upstream's state dict, in the order of the model.
    """
    names = {member.layer for group in groups for member in group.members}
    # A parameter outside any layer is a member under its own name.
    names |= {name.rpartition(".")[0] for name in names}
    inside = {module for module, name in graph.names.items() if name in names}
    return [
        name
        for name, module in named_modules(graph.model)
        if module in graph.predictions or (module not in inside and _has_tensor(module))
    ]


def _has_tensor(module):
    return any(isinstance(value, list) for value in entry_of(module).values())
