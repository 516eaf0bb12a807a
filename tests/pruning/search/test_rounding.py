"""The multiple of widths: which one a device gets, and the steps that a group gets of it."""

import pytest
import torch

from blendprune.errors import ConfigError
from blendprune.pruning.search.rounding import (
    AUTO,
    Rounding,
    check_round_to,
    choose_rounding,
    rounding_words,
)

WIDE = Rounding(16, True, "AVX-512, float32")


@pytest.mark.parametrize(
    "vectors, device, made",
    [
        ("AVX512", "cpu", Rounding(16, True, "AVX-512, float32")),
        ("AVX2", "cpu", Rounding(8, True, "AVX2, float32")),
        ("DEFAULT", "cpu", Rounding(8, True, "DEFAULT, float32")),
        ("AVX2", "cuda", Rounding(16, True, "CUDA")),
        ("AVX512", torch.device("cuda", 1), Rounding(16, True, "CUDA")),
        ("AVX512", "mps", Rounding(8, True, "mps")),
    ],
)
def test_the_device_decides_what_auto_is(monkeypatch, vectors, device, made):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    assert choose_rounding(AUTO, device) == made
    assert choose_rounding(24, device) == Rounding(24)


@pytest.mark.parametrize("given, made", [(None, AUTO), ("auto", AUTO), (0, 1), (1, 1), (48, 48)])
def test_a_number_or_auto_is_valid(given, made):
    assert check_round_to(given) == made


@pytest.mark.parametrize("bad", [-1, 1.5, True, False, "8", "Auto", "", [8]])
def test_nothing_else_is(bad):
    with pytest.raises(ConfigError, match='round_to must be a whole number .*: write "auto" for'):
        check_round_to(bad)


class TestStep:
    def test_auto_leaves_a_group_free_below_eight_steps(self):
        steps = [WIDE.step(1, width) for width in (2048, 255, 128, 127, 64, 16, 1)]
        assert steps == [16, 16, 16, 1, 1, 1, 1]

    def test_auto_keeps_the_steps_that_a_group_needs(self):
        # A group norm of 32 parts, heads of 24 channels, three parts of four.
        assert [WIDE.step(32, width) for width in (256, 64)] == [32, 32]
        assert [WIDE.step(24, width) for width in (768, 384, 383, 96)] == [48, 48, 24, 24]
        assert [WIDE.step(12, width) for width in (384, 192, 24)] == [48, 12, 12]

    def test_auto_leaves_a_group_free_that_may_lose_less_than_a_step(self):
        assert [WIDE.step(1, 256, most) for most in (0.9, 0.0625, 0.06)] == [16, 16, 1]

    def test_a_given_multiple_holds_for_every_group(self):
        assert [Rounding(16).step(12, width, 0.1) for width in (768, 64, 8)] == [48, 48, 48]
        assert Rounding(1).step(12, 768) == 12


def test_auto_has_finer_steps_and_a_number_has_not():
    assert [each.multiple for each in WIDE.and_finer()] == [16, 8, 4, 2, 1]
    assert all(each.auto and each.reason == WIDE.reason for each in WIDE.and_finer())
    assert Rounding(16).and_finer() == [Rounding(16)]


def test_the_words_name_the_number_and_who_chose_it():
    words = [rounding_words(each.to_dict()) for each in (WIDE, Rounding(24), Rounding(1))]
    assert words == [
        "multiples of 16 (auto: AVX-512, float32)",
        "multiples of 24 (given)",
        "any (round_to 1)",
    ]
