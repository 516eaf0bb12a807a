"""A model that is built from a file: its size, and other threads that build meanwhile."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.modules import module

from blendprune.checkpoint.limits import sized_by
from blendprune.errors import StructError


def _many():
    return nn.ModuleList(nn.Linear(1, 1) for _ in range(600))


def test_more_than_the_weights_explain_is_refused_in_this_block_and_thread_alone():
    weights = {"w": torch.zeros(4)}
    with pytest.raises(StructError, match="far larger than the weights"), sized_by(weights, "x"):
        _many()
    _many()
    with sized_by(weights, "x"):
        other = threading.Thread(target=lambda: built.append(_many()))
        built = []
        other.start()
        other.join()
    assert built


def test_torchs_own_hooks_do_not_come_and_go():
    with sized_by({}, "x"):
        inside = list(module._global_parameter_registration_hooks)
    assert inside and list(module._global_parameter_registration_hooks) == inside
    with sized_by({}, "x"):
        assert list(module._global_parameter_registration_hooks) == inside
