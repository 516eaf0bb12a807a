"""What a run refuses, and what fails on its way, each in a sentence with the next step."""

import contextlib

from ...errors import BlendpruneError, PruningError, TargetUnreachable, error_line, first_line
from .search import TOLERANCE


def check_goal(goal, reachable, rounding):
    """Refuse a goal that no allowed widths meet.

    Args:
        goal (Target): a fraction.
        reachable (float): the smallest cost, as a fraction of the dense model's.
        rounding (Rounding): of the widths.

    Raises:
        TargetUnreachable: the goal is below that.
    """
    if reachable > goal.value:
        # Rounded up, and near enough to be met within the tolerance.
        digits = 3 if reachable > 0.1 else 5
        raise TargetUnreachable(
            f"{goal} is out of reach: the widths that are allowed go down to "
            f"{goal.words(reachable, digits)}; ask for that, raise max_pruning_ratio, or "
            f"ignore fewer layers{_or_lower_round_to(rounding)}",
            reachable,
        )


def check_ratios(target, left):
    """Refuse ratios of single layers that alone go beyond the target.

    Args:
        target (Target): a fraction.
        left (float): the cost with these ratios, as a fraction of the dense model's.

    Raises:
        TargetUnreachable: less is left than the target wants.
    """
    # A latency is approached step by step, and the first step may be a large one. Memory is a
    # limit alone.
    approached = target.unit in ("latency", "memory")
    if left < (1 - TOLERANCE) * target.value and not approached:
        raise TargetUnreachable(
            f"{target} cannot be met within {TOLERANCE:.0%}: pruning_ratio_dict alone leaves "
            f"{target.words(left)}; ask for that, or lower the ratios",
            left,
        )


def check_met(target, now, rounding):
    """Refuse a model that is not within tolerance of its target.

    Peaks of memory come in coarse steps: being further below the target is noted.

    Args:
        target (Target): a fraction.
        now (float): the cost of the model, as a fraction of the dense model's.
        rounding (Rounding): of the widths.

    Returns:
        list[str]: notes.

    Raises:
        TargetUnreachable: the model is too far from it.
    """
    below = now < (1 - TOLERANCE) * target.value
    if below and target.unit == "memory":
        return [f"{target}: the nearest widths that are allowed give {target.words(now)}"]
    if below or now > target.value * (1 + 1e-6):
        raise TargetUnreachable(
            f"{target} cannot be met within {TOLERANCE:.0%}: the nearest widths that are "
            f"allowed give {target.words(now)}; ask for that{_or_lower_round_to(rounding)}",
            now,
        )
    return []


def check_any(groups, model, notes):
    """Refuse a model without a group that may be pruned.

    Args:
        groups (list[ChannelGroup]): all of the model.
        model (nn.Module): for the message.
        notes (list[str]): why groups stay.

    Raises:
        PruningError: none may be pruned.
    """
    if not any(group.prunable for group in groups):
        raise PruningError(
            f"{type(model).__name__} has no group of channels that may be pruned: "
            + ("; ".join(notes[:3]) or "every layer is a prediction layer")
            + (f"; and {len(notes) - 3} more" if len(notes) > 3 else "")
            + " (blendprune.plan lists all)"
        )


@contextlib.contextmanager
def naming_data_faults(model):
    """Turn what a model raises on the data into one sentence.

    Raises:
        PruningError: in place of any error but blendprune's own.
    """
    try:
        yield
    except BlendpruneError:
        raise
    except Exception as error:
        raise PruningError(
            f"{type(model).__name__} does not run on the data ({error_line(error)}): pass "
            "batches as its training takes them, images and labels"
        ) from error


@contextlib.contextmanager
def naming_misfits(model):
    """Turn torch's error about shapes that do not fit into one that says what to do.

    Raises:
        PruningError: in place of a RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        raise PruningError(
            f"the pruned {type(model).__name__} does not run ({first_line(error)}); name "
            "the layers around that shape in ignored_layers"
        ) from error


def _or_lower_round_to(rounding):
    # "auto" has tried finer steps already.
    return ", or lower round_to" if rounding.multiple > 1 and not rounding.auto else ""
