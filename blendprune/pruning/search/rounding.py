"""The multiple that widths are rounded to: given, or the one that a device runs well."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Final

import torch

from ...checks import check_count

#: The default of ``round_to``.
AUTO: Final = "auto"
# "auto" takes no step above this fraction of a layer's dense width.
_LARGEST_STEP = 1 / 8


@dataclass(frozen=True)
class Rounding:
    """What new widths are multiples of.

    Attributes:
        multiple (int): at least 1.
        auto (bool): whether the device decided; narrow groups are then free.
        reason (str): what decided, for people: ``"AVX-512, float32"``.
    """

    multiple: int
    auto: bool = False
    reason: str = ""

    def step(self, own_step, dense_width, most_lost=1.0):
        """The distance of the widths that a group may take.

        A given multiple holds for every group. ``"auto"`` leaves a group free where a step would be
        more than an eighth of the dense width, or more than the group may lose. Finer steps for
        such groups (8 for 64 channels) were measured to save no more than 1 % of the latency.

        Args:
            own_step (int): what the group needs anyway: its parts times its blocks.
            dense_width (int): before anything was pruned.
            most_lost (float): fraction of the dense width that the group may lose.

        Returns:
            int: a multiple of ``own_step``.
        """
        step = math.lcm(own_step, self.multiple)
        free = self.auto and step > min(_LARGEST_STEP, most_lost) * dense_width
        return own_step if free else step

    def and_finer(self):
        """This rounding and, if the device decided, those of half its multiple, a quarter, … 1.

        Returns:
            list[Rounding]: coarsest first.
        """
        powers = range(self.multiple.bit_length() if self.auto else 1)
        return [replace(self, multiple=self.multiple >> n) for n in powers]

    def to_dict(self):
        """As JSON-ready data: ``multiple``, ``auto``, ``reason``."""
        return asdict(self)


def choose_rounding(round_to, device):
    """The rounding for a device.

    ========================  ========  =====================================================
    device                    multiple  why
    ========================  ========  =====================================================
    CPU with AVX-512          16        oneDNN computes 16 channels of float32 at once
    CPU with AVX2, any other  8         8 channels of float32 at once
    CUDA                      16        the smallest multiple that was measured to gain (H100)
    any other                 8         not measured
    ========================  ========  =====================================================

    Args:
        round_to (int | str | Rounding): a checked number, :data:`AUTO`, or what was chosen already.
        device (torch.device | str): where the model runs.

    Returns:
        Rounding: with its reason.
    """
    if isinstance(round_to, Rounding):
        return round_to
    if round_to != AUTO:
        return Rounding(round_to)
    kind = torch.device(device).type
    if kind == "cuda":
        return Rounding(16, True, "CUDA")
    if kind != "cpu":
        return Rounding(8, True, kind)
    vectors = torch.backends.cpu.get_cpu_capability()
    if vectors.startswith("AVX512"):
        return Rounding(16, True, "AVX-512, float32")
    return Rounding(8, True, f"{vectors}, float32")


def check_round_to(round_to):
    """Return the number, :data:`AUTO`, or the rounding.

    Args:
        round_to (object): None counts as automatic, and 0, as older configs have it, as 1.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(round_to, Rounding):
        return round_to
    if round_to is None or round_to == AUTO:
        return AUTO
    if round_to == 0 and not isinstance(round_to, bool):
        return 1
    return check_count("round_to", round_to, 'write "auto" for what the device runs well')


def rounding_words(rounding):
    """Say which multiple, and who chose it.

    Args:
        rounding (dict): from :meth:`Rounding.to_dict`.

    Returns:
        str: ``"multiples of 16 (auto: AVX-512, float32)"``.
    """
    multiple = rounding["multiple"]
    if rounding["auto"]:
        return f"multiples of {multiple} (auto: {rounding['reason']})"
    return f"multiples of {multiple} (given)" if multiple > 1 else "any (round_to 1)"
