"""Which layers lose the same channel together, which stay, and why."""

import math

import numpy as np
import torch
from torch import nn

from ...errors import ConfigError, error_line
from ..tracing.composite import CompositeOperator
from ..tracing.layer_kinds import is_depthwise, is_norm, is_prunable_layer, tied_modules
from .coupling import coupling_of, parts_of
from .dependencies import Dependencies
from .groups import ChannelGroup, Member
from .inputs import small_inputs
from .layer_patterns import resolve_layers, resolve_ratios
from .outputs import TracedForward


class ChannelGraph:
    """The dependency graph of a model inside the prunable view.

    Args:
        model (nn.Module): inside :func:`blendprune.prunable`.
        example_inputs (list[dict]): detectron2's format.
        ignored_layers (Sequence[str | nn.Module]): layers whose output width stays: modules, names,
            or glob patterns of names; a container stands for everything in it.
        pruning_ratio_dict (dict[str | nn.Module, float]): layers, given likewise → the fraction
            of the channels that their groups lose; the last entry that names a layer counts.
        frozen (dict[str, str]): names of layers whose groups keep their width → reason.
        batches (Sequence[list[dict]]): labelled images to see what training runs; without them:
            made-up labels.

    Attributes:
        names (dict[nn.Module, str]): of every module.
        frozen (dict[str, str]): as given.
        inputs (list[dict]): small images that were traced.
        batches (list[list[dict]]): those of the given ones, cut to a few images, whose training
            showed layers.
        forwards (int): how many of :func:`forwards_of` showed all layers.
        notes (list[str]): what does not take part in pruning and why, one sentence each.
    """

    def __init__(
        self,
        model,
        example_inputs,
        ignored_layers=(),
        pruning_ratio_dict=None,
        frozen=None,
        batches=(),
    ):
        self.model = model
        self.frozen = dict(frozen or {})
        self.names = {module: name for name, module in model.named_modules()}
        self._modules = {name: module for module, name in self.names.items()}
        self._tied = tied_modules(self.names)
        self.ignored = resolve_layers(model, ignored_layers)
        self.ratios = resolve_ratios(model, pruning_ratio_dict)
        self._composites = [m for m in self.names if isinstance(m, CompositeOperator)]
        self._frozen_inputs = {}
        for composite in self._composites:
            self._frozen_inputs.update(composite.frozen_inputs())
        self.notes = []
        self.inputs = small_inputs(model, example_inputs)
        self._note_unreached(self._trace(self.inputs, batches))

    def groups(self):
        """All groups at their present widths.

        Returns:
            list[ChannelGroup]: groups that keep their width included.
        """
        return [self._describe(handle) for handle in self._handles()]

    def prune(self, group, channels, kept=None):
        """Remove channels of a group from all its members.

        Args:
            group (ChannelGroup): one of :meth:`groups`.
            channels (Sequence[int]): indices in ``range(group.width)``.
            kept (KeptEntries): follows what is removed.
        """
        root = group.handle[0].dep
        channels = sorted(int(channel) for channel in channels)
        going = self.dependencies.get_pruning_group(root.target.module, root.handler, channels)
        if kept is not None:
            kept.follow(going)
        self.dependencies.prune(going)

    def _trace(self, example_inputs, batches):
        def forward(model, inputs):
            nonlocal traced
            traced = TracedForward(model, inputs, batches=batches)
            return traced.outputs()

        traced = None
        with torch.enable_grad():
            self.model.eval()
            self.dependencies = Dependencies(self.model, example_inputs, forward)
            self.predictions = set(traced.prediction_layers())
        self.forwards, self.batches = 1 + len(traced.own_calls), traced.batches
        return traced

    def _handles(self):
        # A depthwise conv makes no channels: what it reads may be several groups, concatenated.
        seen, graph = set(), self.dependencies
        for module in list(graph.module2node):
            layer = isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))
            if layer and not is_depthwise(module) and module not in seen:
                pruner = graph.get_pruner_of_module(module)
                width = pruner.get_out_channels(module)
                handle = graph.get_pruning_group(module, pruner.prune_out_channels, range(width))
                for dep, _ in handle:
                    if graph.is_out_channel_pruning_fn(dep.handler):
                        seen.add(dep.target.module)
                yield handle

    def _describe(self, handle):
        found = _Description(handle)
        self._describe_coupling(found)
        for item in handle:
            dep, indices = item
            module = dep.target.module
            name = self._name_of(module)
            if name is None:
                self._describe_operator(found, module)
                continue
            out = self.dependencies.is_out_channel_pruning_fn(dep.handler)
            found.members.append(Member(name, "out" if out else "in", len(indices) / found.width))
            self._describe_layer(found, module, name, out)
            if out and is_prunable_layer(module):
                own = np.unique(found.classes[item.root_idxs])
                if len(own) < len(np.unique(found.classes)):
                    found.reasons[f"only {len(indices)} of them are its own"] = module
        return self._build(found)

    def _describe_coupling(self, found):
        classes, kept = self.dependencies.root_classes(found.root), self.dependencies.kept
        found.classes = classes
        reason = next((kept[each] for each in classes.tolist() if each in kept), None)
        coupling = coupling_of(classes)
        if reason is not None:
            found.freeze(reason)
        elif coupling is None:
            found.freeze("its channels cannot go one by one")
        else:
            num_parts, found.block_size = coupling
            found.parts.append(num_parts)
            found.aligned = num_parts > 1
            for divided in self.dependencies.divided:
                parts = parts_of(classes, divided)
                if parts is None:
                    found.freeze("a chunk of its channels would not stay as wide as the others")
                found.parts.append(parts or 1)

    def _describe_operator(self, found, module):
        owner = getattr(self.dependencies.module2node[module].grad_fn, "owner", None)
        if isinstance(owner, CompositeOperator) and not owner.frozen_reason:
            found.parts.append(owner.num_parts)
            found.aligned, found.block_size = True, owner.block_size
            found.members.append(Member(self.names[owner], "out", 1))

    def _describe_layer(self, found, module, name, out):
        if out:
            found.outs[module] = name
        elif module in self._frozen_inputs:
            found.reasons[self._frozen_inputs[module]] = found.root
        if module in self._tied:
            found.reasons[f"shares a parameter with {self._tied[module]}"] = module
        if out and module in self.predictions:
            found.reasons["prediction layer"] = module
        if out and name in self.frozen:
            found.reasons[self.frozen[name]] = module
        if isinstance(module, nn.GroupNorm):
            found.parts.append(module.num_groups)
            found.min_part_width = 2
        elif isinstance(module, nn.modules.conv._ConvNd) and not is_depthwise(module):
            found.parts.append(module.groups)
            if module.groups > 1:
                found.aligned = True
                if out:
                    found.min_part_width = 2

    def _build(self, found):
        """The group of a description, with the reason why it stays or the ratio asked of it."""
        root, width, reasons = found.root, found.width, found.reasons
        num_parts = math.lcm(*found.parts)
        if width % num_parts:
            reasons[f"width {width} does not divide into {num_parts} equal parts"] = root
        elif width <= num_parts * found.min_part_width * found.block_size:
            reasons["already at its minimum width"] = root
        group = ChannelGroup(
            root=self.names[root],
            width=width,
            members=found.members,
            num_parts=num_parts,
            aligned=found.aligned,
            min_part_width=found.min_part_width,
            block_size=found.block_size,
            handle=found.handle,
        )
        makers = [module for module in found.outs if is_prunable_layer(module)]
        # A norm may be ignored, too; a conv says more.
        ignored = [m for m in makers if m in self.ignored]
        ignored = ignored or [m for m in found.outs if m in self.ignored]
        if ignored:
            by = _by(self.ignored[ignored[0]], found.outs[ignored[0]])
            reasons[f"ignored{by}"] = ignored[0]
        # The last entry counts, whichever of the members it names.
        asked = max((self.ratios[m] for m in found.outs if m in self.ratios), default=None)
        named = [module for module in makers if self.ratios.get(module) == asked]
        if asked and asked.ratio == 0:
            reasons[f"pruning ratio 0{_by(asked.entry, group.root)}"] = next(iter(named), root)
        if reasons:
            reason = min(reasons, key=_rank)
            part = _part_of([m for m in ignored if m in makers], makers)
            part = part if reason.startswith("ignored") else ""
            because = ", ".join(filter(None, (self.names.get(reasons[reason]), part)))
            group.frozen_reason = reason if because in ("", group.root) else f"{reason} ({because})"
        elif asked:
            group.ratio = asked.ratio
            if part := _part_of(named, makers):
                group.notes.append(
                    f"{group.root}: loses {asked.ratio:.0%} by {asked.entry!r}, which names "
                    f"{self.names[named[0]]}, {part}"
                )
        return group

    def check_ratios(self, groups):
        """Refuse a ratio of layers that all keep their width.

        Args:
            groups (list[ChannelGroup]): all groups, before anything is pruned.

        Raises:
            ConfigError: no layer that an entry of ``pruning_ratio_dict`` names can lose channels.
        """
        frozen = {}
        for group in groups:
            for member in group.members:
                module = self._modules.get(member.layer)
                if member.role == "out" and module in self.ratios:
                    frozen.setdefault(self.ratios[module], []).append(group.frozen_reason)
        for entry in sorted(set(self.ratios.values())):
            reasons = frozen.get(entry, ["it makes no channels of its own"])
            asked_for = [reason for reason in reasons if reason.startswith(_REASONS[:2])]
            if entry.ratio and all(reasons) and not asked_for:
                raise ConfigError(
                    f"pruning_ratio_dict has {entry.entry!r}: {entry.ratio:g}, but no layer it "
                    f"names can lose channels: {reasons[0]}; leave the entry out"
                )

    def _name_of(self, module):
        if isinstance(module, nn.Parameter):
            return self.dependencies._param_to_name.get(module)
        return self.names.get(module)

    def _note_unreached(self, traced):
        reached = self.dependencies.module2node
        inside = set().union(*(composite.inner_modules() for composite in self._composites))
        self.notes += dict.fromkeys(composite.note for composite in self._composites)
        self.notes = [note for note in self.notes if note]
        unrun = traced.unrun_layers()
        failures = [
            f"{name} failed ({error_line(error)})" for name, error in traced.failures.items()
        ]
        for module, name in self.names.items():
            layer = (is_prunable_layer(module) or is_norm(module)) and module not in inside
            if layer and module not in reached:
                why = "no output depends on it in the traced forward"
                if module in unrun:
                    failed = f", and {failures[-1]}" if failures else ""
                    why = (
                        f"nothing was seen to run it{failed}; what feeds it may be pruned without "
                        "it: pass data that runs it, with the labels of its loss"
                    )
                self.notes.append(f"{name}: {why}")


class _Description:
    """What the items of a group of Torch-Pruning say about it, while they are read."""

    def __init__(self, handle):
        self.handle = handle
        self.root = handle[0].dep.target.module
        self.width = len(handle[0].idxs)
        self.members, self.parts, self.outs = [], [1], {}
        self.aligned, self.min_part_width, self.block_size = False, 1, 1
        # Why the width stays → the layer that says so.
        self.reasons = {}

    def freeze(self, reason):
        self.reasons.setdefault(reason, self.root)


def _rank(reason):
    # A setting of the user explains more than a property of the architecture.
    return next((i for i, word in enumerate(_REASONS) if reason.startswith(word)), len(_REASONS))


_REASONS = ("ignored", "pruning ratio 0", "prediction layer")


def _by(entry, name):
    return "" if entry == name else f" by {entry!r}"


def _part_of(named, makers):
    """How many of the layers that make the channels were named; empty if all were."""
    return f"{len(named)} of {len(makers)} layers" if 0 < len(named) < len(makers) else ""
