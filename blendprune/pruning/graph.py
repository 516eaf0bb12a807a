"""Channel groups: which layers lose the same channel together, and which must stay, with why."""

import math
import re
from dataclasses import dataclass, field

import torch
import torch_pruning as tp
from torch import nn

from ..errors import ConfigError, PruningError
from .layers import resolve_layers, resolve_ratios
from .outputs import head_outputs, prediction_layers, small_inputs
from .view import is_norm, is_prunable_layer

# Autograd operators that act on every channel alone and leave the channel dimension where it is.
_CHANNEL_WISE = re.compile(
    r"(Add|Sub|Rsub|Mul|Div|Neg|Pow|Exp|Log|Sqrt|Rsqrt|Abs|Square|Sigmoid|Relu|LeakyRelu|Elu|Gelu"
    r"|Silu|Tanh|Softplus|Hardtanh|Hardswish|Hardsigmoid|Mish|Clamp|ClampMin|ClampMax|Clone|Alias"
    r"|ToCopy|NativeDropout|Upsample\w+2D|MaxPool2DWithIndices|AvgPool2D|AdaptiveAvgPool2D"
    r"|AdaptiveMaxPool2D|ReflectionPad2D|ReplicationPad2D"
    # The transposed weight of a linear, and features pooled from regions.
    r"|T|GeneratedBackwardFor_torchvision_roi_align_default|_BezierAlign)(Backward\d*)?"
)


@dataclass(frozen=True)
class Member:
    """One side of one layer that loses channels with its group.

    Attributes:
        layer (str): module name (for a parameter outside any known layer, the parameter's).
        role (str): ``"out"`` for what makes or normalises the channels, ``"in"`` for what reads.
        per_channel (int): entries of the layer that one channel of the group stands for; above 1
            where a linear reads a flattened map.
    """

    layer: str
    role: str
    per_channel: int


@dataclass
class ChannelGroup:
    """Layers whose channels can only be removed together.

    Attributes:
        root (str): name of the layer that the group is named after.
        width (int): channels now.
        members (list[Member]): every layer side that changes with the group.
        slots (int): equal parts (of a group norm or a grouped conv) that must keep equal counts.
        aligned (bool): the parts must also keep the same positions, as grouped convs want.
        per_slot (int): least channels of a part. A group norm over a single channel would wipe out
            what it sees on a 1x1 map, and torch refuses to compute it; a grouped conv would become
            a depthwise one, whose channels go with those of its input.
        stays (str): why the width must stay; empty if it may change.
        ratio (float | None): fraction of its dense width that it loses whatever the target; None
            where the target decides.
        notes (list[str]): what was asked for some of its members and holds for all.
    """

    root: str
    width: int
    members: list
    slots: int = 1
    aligned: bool = False
    per_slot: int = 1
    stays: str = ""
    ratio: float | None = None
    notes: list = field(default_factory=list)
    handle: object = field(default=None, repr=False)

    @property
    def prunable(self):
        return not self.stays

    @property
    def least(self):
        """The smallest width that the members allow."""
        return self.width if self.stays else min(self.width, self.slots * self.per_slot)

    @property
    def kind(self):
        """Groups of one kind have the same make-up, whatever their widths."""
        items = [(type(dep.target.module).__name__, dep.handler.__name__) for dep, _ in self.handle]
        return tuple(sorted(items))


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
        self.notes = []
        example_inputs = small_inputs(model, example_inputs)
        with torch.enable_grad():
            model.eval()
            self.predictions = set(prediction_layers(model, example_inputs))
            self.dependencies = self._trace(example_inputs)
            strange = self._without_channels()
            if strange:
                for parameter in strange:
                    parameter.requires_grad_(False)
                self.dependencies = self._trace(example_inputs)
        self._note_unreached()

    def groups(self):
        """All groups at their present widths.

        Returns:
            list[ChannelGroup]: those that stay included.
        """
        return [self._describe(handle) for handle in self.dependencies.get_all_groups()]

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

    def _trace(self, example_inputs):
        try:
            return tp.DependencyGraph().build_dependency(
                self.model, example_inputs, forward_fn=head_outputs, verbose=False
            )
        except (IndexError, KeyError, AttributeError) as error:
            raise PruningError(
                f"the dependency graph of {type(self.model).__name__} cannot be traced: {error!r}; "
                "check that its outputs are differentiable"
            ) from error

    def _without_channels(self):
        """Parameters outside any layer whose entries are no channels: BiFPN's weights of inputs."""
        if not self.dependencies.unwrapped_parameters:
            return []
        lengths = {p: p.shape[dim] for p, dim in self.dependencies.unwrapped_parameters}
        return [
            dep.target.module
            for handle in self.dependencies.get_all_groups()
            for dep, indices in handle
            if isinstance(dep.target.module, nn.Parameter)
            and max(indices) >= lengths.get(dep.target.module, 0)
        ]

    def _describe(self, handle):
        root = handle[0].dep.target.module
        width = len(handle[0].idxs)
        members, parts, aligned, per_slot, reasons, outs = [], [1], False, 1, {}, {}
        for dep, indices in handle:
            module = dep.target.module
            out = self.dependencies.is_out_channel_pruning_fn(dep.handler)
            name = self._name_of(module)
            if name is None:
                if isinstance(module, tp.ops._ElementWiseOp):
                    grad_fn = self.dependencies.module2node[module].grad_fn
                    if not _is_channel_wise(grad_fn):
                        reasons.setdefault(f"unknown operator {module._grad_fn}", root)
                continue
            members.append(Member(name, "out" if out else "in", max(1, len(indices) // width)))
            if out:
                outs[module] = name
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
        elif width <= slots * per_slot:
            reasons["already at its least width"] = root
        group = ChannelGroup(
            self.names[root], width, members, slots, aligned, per_slot, handle=handle
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
        for module, name in self.names.items():
            if (is_prunable_layer(module) or is_norm(module)) and module not in reached:
                self.notes.append(f"{name}: no output depends on it in the traced forward")


def group_notes(groups):
    """What the groups have to say: which stay although they end in no prediction, and why.

    Args:
        groups (list[ChannelGroup]): from :meth:`ChannelGraph.groups`.

    Returns:
        list[str]: sentences.
    """
    plain = ("", "prediction layer")
    stays = [
        f"{g.root}: all {g.width} channels stay: {g.stays}" for g in groups if g.stays not in plain
    ]
    return stays + [note for group in groups for note in group.notes]


def _rank(reason):
    # What somebody asked for explains more than what the architecture wants.
    return next((i for i, word in enumerate(_REASONS) if reason.startswith(word)), len(_REASONS))


_REASONS = ("ignored", "pruning ratio 0", "prediction layer")


def _by(entry, name):
    return "" if entry == name else f" by {entry!r}"


def _part_of(named, makers):
    """How many of the layers that make the channels were named, if not all."""
    return f"{len(named)} of {len(makers)} layers" if 0 < len(named) < len(makers) else ""


def _is_channel_wise(grad_fn):
    name = grad_fn.name()
    if re.fullmatch(r"(Mean|Sum)Backward\d+", name):
        # Over all there is (as losses do), or over positions alone.
        dims = getattr(grad_fn, "_saved_dim", None)
        rank = len(grad_fn._saved_self_sym_sizes)
        return bool(dims) and all(_signed(dim) % rank != 1 for dim in dims)
    if re.fullmatch(r"StackBackward\d+", name):
        # A new dimension, behind the channels.
        return _signed(grad_fn._saved_dim) in (-3, -2, -1, 2, 3, 4)
    if re.fullmatch(r"Index(Put)?Backward\d+", name):
        # Indices of the first dimension: regions are put where their level of the pyramid was.
        return all(index is None for index in grad_fn._saved_indices[1:])
    return _CHANNEL_WISE.fullmatch(name) is not None


def _signed(dim):
    # Autograd hands out negative dimensions as unsigned numbers.
    return dim - (1 << 64) if dim >= 1 << 63 else dim


def _is_depthwise(conv):
    return conv.groups == conv.out_channels and conv.groups > 1
