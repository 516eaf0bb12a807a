"""Which layers lose the same channel together, and which must stay, with why."""

import math

import torch
import torch_pruning as tp
from torch import nn

from ...errors import ConfigError
from ...modeling.attention import head_width, is_attention
from ..tracing.operators import follows_constant, is_channel_wise
from ..tracing.view import is_dynamic_head, is_norm, is_prunable_layer
from .dependencies import build_dependencies
from .groups import ChannelGroup, Member
from .layer_patterns import resolve_layers, resolve_ratios
from .outputs import prediction_layers, small_inputs


class ChannelGraph:
    """The dependency graph of a model inside the prunable view.

    Args:
        model (nn.Module): inside :func:`blendprune.prunable`.
        example_inputs (list[dict]): detectron2's format.
        ignored_layers (Sequence[str | nn.Module]): layers whose output width stays: modules, names,
            or glob patterns of names; a container stands for everything in it.
        pruning_ratio_dict (dict[str | nn.Module, float]): layers, given likewise → the fraction
            of the channels that their groups lose; the last entry that names a layer counts.

    Attributes:
        notes (list[str]): what does not take part in pruning and why, one sentence each.
    """

    def __init__(self, model, example_inputs, ignored_layers=(), pruning_ratio_dict=None):
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self._modules = {name: module for module, name in self.names.items()}
        self.ignored = resolve_layers(model, ignored_layers)
        self.ratios = resolve_ratios(model, pruning_ratio_dict)
        self.residual = {m.qkv for m in self.names if is_attention(m)}
        self.notes = []
        example_inputs = small_inputs(model, example_inputs)
        with torch.enable_grad():
            model.eval()
            self.predictions = set(prediction_layers(model, example_inputs))
            self.dependencies = build_dependencies(model, example_inputs)
            strange = self._without_channels()
            if strange:
                for parameter in strange:
                    parameter.requires_grad_(False)
                self.dependencies = build_dependencies(model, example_inputs)
        self._note_unreached()

    def groups(self):
        """All groups at their present widths.

        Returns:
            list[ChannelGroup]: those that stay included.
        """
        return [self._describe(handle) for handle in self._handles()]

    def _handles(self):
        # A depthwise conv makes no channels: what it reads may be several groups, concatenated.
        seen, graph = set(), self.dependencies
        for module in list(graph.module2node):
            layer = isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))
            if layer and not _is_depthwise(module) and module not in seen:
                pruner = graph.get_pruner_of_module(module)
                width = pruner.get_out_channels(module)
                handle = graph.get_pruning_group(module, pruner.prune_out_channels, range(width))
                for dep, _ in handle:
                    if graph.is_out_channel_pruning_fn(dep.handler):
                        seen.add(dep.target.module)
                yield handle

    def cut(self, group, channels, survivors=None):
        """Remove channels of a group from all its members.

        Args:
            group (ChannelGroup): one of :meth:`groups`.
            channels (Sequence[int]): indices in ``range(group.width)``.
            survivors (Survivors): told what is removed.
        """
        root = group.handle[0].dep
        channels = sorted(int(channel) for channel in channels)
        doomed = self.dependencies.get_pruning_group(root.target.module, root.handler, channels)
        if survivors is not None:
            survivors.follow(doomed)
        doomed.prune()

    def _without_channels(self):
        """Parameters outside any layer whose entries are no channels: BiFPN's weights of inputs."""
        if not self.dependencies.unwrapped_parameters:
            return []
        lengths = {p: p.shape[dim] for p, dim in self.dependencies.unwrapped_parameters}
        return [
            dep.target.module
            for handle in self._handles()
            for dep, indices in handle
            if isinstance(dep.target.module, nn.Parameter)
            and max(indices) >= lengths.get(dep.target.module, 0)
        ]

    def _describe(self, handle):
        root = handle[0].dep.target.module
        width = len(handle[0].idxs)
        members, parts, aligned, per_slot, block = [], [1], False, 1, 1
        reasons, outs = {}, {}
        for dep, indices in handle:
            module = dep.target.module
            out = self.dependencies.is_out_channel_pruning_fn(dep.handler)
            name = self._name_of(module)
            if name is None:
                grad_fn = self.dependencies.module2node[module].grad_fn
                owner = getattr(grad_fn, "owner", None)
                if is_dynamic_head(owner):
                    reasons.setdefault(f"{self.names[owner]} has weights for its channels", root)
                elif isinstance(module, (tp.ops._ElementWiseOp, tp.ops._ConcatOp)):
                    if is_attention(owner):
                        # Queries, keys and values of a head go together, and in whole heads.
                        parts.append(3)
                        aligned, block = True, head_width(owner)
                        members.append(Member(self.names[owner], "out", 1))
                    elif follows_constant(grad_fn):
                        reasons.setdefault("concatenated behind a constant", root)
                    elif not is_channel_wise(grad_fn, len(indices)):
                        reasons.setdefault(f"unknown operator {module._grad_fn}", root)
                continue
            members.append(Member(name, "out" if out else "in", len(indices) / width))
            if out:
                outs[module] = name
            elif module in self.residual:
                reasons["the residual stream that attention reads"] = root
            if out and is_prunable_layer(module) and len(indices) < width:
                reasons[f"only {len(indices)} of them are its own"] = module
            if out and module in self.predictions:
                reasons["prediction layer"] = module
            if isinstance(module, nn.GroupNorm):
                parts.append(module.num_groups)
                per_slot = 2
            elif isinstance(module, nn.modules.conv._ConvNd) and not _is_depthwise(module):
                parts.append(module.groups)
                aligned |= module.groups > 1
                per_slot = 2 if out and module.groups > 1 else per_slot
        slots = math.lcm(*parts)
        if width % slots:
            reasons[f"width {width} does not divide into {slots} equal parts"] = root
        elif width <= slots * per_slot * block:
            reasons["already at its least width"] = root
        group = ChannelGroup(
            self.names[root], width, members, slots, aligned, per_slot, block, handle=handle
        )
        makers = [module for module in outs if is_prunable_layer(module)]
        # A norm may be ignored, too; a conv says more.
        ignored = [m for m in makers if m in self.ignored] or [m for m in outs if m in self.ignored]
        if ignored:
            reasons[f"ignored{_by(self.ignored[ignored[0]], outs[ignored[0]])}"] = ignored[0]
        # The last entry counts, whichever of the members it names.
        asked = max((self.ratios[m] for m in outs if m in self.ratios), default=None)
        named = [module for module in makers if self.ratios.get(module) == asked]
        if asked and asked.ratio == 0:
            reasons[f"pruning ratio 0{_by(asked.entry, group.root)}"] = next(iter(named), root)
        if reasons:
            reason = min(reasons, key=_rank)
            part = _part_of(ignored, makers) if reason.startswith("ignored") else ""
            because = ", ".join(filter(None, (self.names.get(reasons[reason]), part)))
            group.stays = reason if because in ("", group.root) else f"{reason} ({because})"
        elif asked:
            group.ratio = asked.ratio
            if part := _part_of(named, makers):
                group.notes.append(
                    f"{group.root}: loses {asked.ratio:.0%} by {asked.entry!r}, which names "
                    f"{self.names[named[0]]}, {part}"
                )
        return group

    def check_ratios(self, groups):
        """Refuse a ratio that nothing can lose.

        Args:
            groups (list[ChannelGroup]): all groups, before the first cut.

        Raises:
            ConfigError: all that an entry of ``pruning_ratio_dict`` names must stay.
        """
        stays = {}
        for group in groups:
            for member in group.members:
                module = self._modules.get(member.layer)
                if member.role == "out" and module in self.ratios:
                    stays.setdefault(self.ratios[module], []).append(group.stays)
        for entry in sorted(set(self.ratios.values())):
            reasons = stays.get(entry, ["it makes no channels of its own"])
            asked_for = [reason for reason in reasons if reason.startswith(_REASONS[:2])]
            if entry.ratio and all(reasons) and not asked_for:
                raise ConfigError(
                    f"pruning_ratio_dict has {entry.entry!r}: {entry.ratio:g}, but no layer it "
                    f"names can lose channels: {reasons[0]}"
                )

    def _name_of(self, module):
        if isinstance(module, nn.Parameter):
            return self.dependencies._param_to_name.get(module)
        return self.names.get(module)

    def _note_unreached(self):
        reached = self.dependencies.module2node
        inside = set()
        for attention in filter(is_attention, self.names):
            inside.update(set(attention.modules()) - {attention.qkv, attention.proj})
        if inside:
            self.notes.append("attention loses whole heads: the width of a head stays")
        for module, name in self.names.items():
            layer = (is_prunable_layer(module) or is_norm(module)) and module not in inside
            if layer and module not in reached:
                self.notes.append(f"{name}: no output depends on it in the traced forward")


def _rank(reason):
    # What somebody asked for explains more than what the architecture wants.
    return next((i for i, word in enumerate(_REASONS) if reason.startswith(word)), len(_REASONS))


_REASONS = ("ignored", "pruning ratio 0", "prediction layer")


def _by(entry, name):
    return "" if entry == name else f" by {entry!r}"


def _part_of(named, makers):
    """How many of the layers that make the channels were named, if not all."""
    return f"{len(named)} of {len(makers)} layers" if 0 < len(named) < len(makers) else ""


def _is_depthwise(layer):
    groups = getattr(layer, "groups", 1)
    return groups > 1 and groups == layer.out_channels
