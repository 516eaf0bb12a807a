"""A user's code as a type checker reads it: ``make lint`` runs mypy on it, and nothing runs it.

Wrong calls have an ignore with the error that mypy must find; an ignore without one is an error.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from typing_extensions import assert_type

import blendprune
import blendprune.distributed
import blendprune.runtime
from blendprune.overlay import PatchStatus
from blendprune.pruning import PruningPlan, PruningReport, Sensitivity


class Detector(nn.Module):
    """A model of the user's."""


def overlay() -> None:
    blendprune.apply(on_drift="warn")
    assert_type(blendprune.status(), list[PatchStatus])
    with blendprune.applied():
        pass
    blendprune.revert()
    with blendprune.distributed.together():
        pass
    blendprune.apply(on_drift="ignore")  # type: ignore[arg-type]


def prune(model: Detector, loader: Iterable[list[dict[str, Any]]]) -> None:
    plan = blendprune.plan(model, ignored_layers=["backbone.*", model], round_to="auto")
    assert_type(plan, PruningPlan)
    assert_type(plan.groups[0].width, int)
    measured = blendprune.measure_sensitivity(model, data=loader, ratios=(0.1, 0.5))
    assert_type(measured, Sensitivity)
    report = blendprune.prune(
        model=model,
        max_flops=0.5,
        data=loader,
        sensitivity=measured,
        pruning_ratio_dict={"head": 0.3},
        progress=print,
        on_level=lambda level, found: print(level + 1, found.flops["after"]),
        on_round=lambda state: print(state["removed"]),
        resume=None,
    )
    assert_type(report, PruningReport)
    assert_type(report.layers["backbone.conv1"]["after"], int)
    with blendprune.prunable(model) as view:
        assert_type(view, Detector)

    blendprune.prune(model, max_flop=0.5)  # type: ignore[call-arg]
    blendprune.prune(model, max_flops="half")  # type: ignore[arg-type]
    blendprune.prune("model.pth", max_flops=0.5)  # type: ignore[arg-type]
    blendprune.prune(model, max_flops=0.5, normalize="channels")  # type: ignore[arg-type]
    blendprune.prune(model, max_flops=0.5, round_to="max")  # type: ignore[arg-type]
    blendprune.prune(model, max_flops=0.5, on_level=print, levels=0.7)  # type: ignore[arg-type]
    print(report.flop)  # type: ignore[attr-defined]
    blendprune.plan(model, max_flops=0.5)  # type: ignore[call-arg]
    print(blendprune.prunes)  # type: ignore[attr-defined]


def with_a_config(cfg: Any) -> None:
    blendprune.add_prune_config(cfg)
    assert_type(blendprune.prune_from_config(cfg, "pruned"), dict[str, Any])
    assert_type(blendprune.plan_from_config(cfg), PruningPlan)
    assert_type(blendprune.sensitivity_from_config(cfg), Sensitivity)
    blendprune.prune_in_script(cfg, Detector(), [])
    blendprune.prune_from_config(cfg)  # type: ignore[call-arg]


def checkpoints(model: Detector) -> None:
    struct = blendprune.structure_of(model)
    blendprune.restructure(model, struct)
    assert_type(blendprune.load("pruned.pth", device=torch.device("cpu")), nn.Module)
    assert_type(blendprune.convert("old.pth", "new.pth", allow_pickle=True), list[str])
    blendprune.restructure(struct, model)  # type: ignore[arg-type]
    try:
        blendprune.load("pruned.pth")
    except blendprune.errors.TargetUnreachable as error:
        print(error.reachable)


def ship(model: Detector, loader: Iterable[list[dict[str, Any]]], cfg: Any) -> None:
    assert_type(blendprune.deploy(model, dtype=torch.bfloat16), Detector)
    files = blendprune.export(model, "model.onnx", int8=True, data=loader)
    assert_type(files.cores[0].file, str)
    assert_type(blendprune.export_from_config(cfg, "model.onnx").to_dict(), dict[str, Any])
    detector = blendprune.runtime.load("model.onnx", engine="openvino", threads=1)
    assert_type(detector, blendprune.runtime.Detector)
    assert_type(detector([{"image": torch.zeros(3, 64, 64)}]), list[dict[str, Any]])
    blendprune.bench({"dense": model}, forms=["eager"], evaluate=lambda run: run([]))
    blendprune.runtime.load("model.onnx", engine="tensorrt")  # type: ignore[arg-type]
    blendprune.deploy(model, dtype="bfloat16")  # type: ignore[arg-type]
    blendprune.bench([model])  # type: ignore[arg-type]


@blendprune.register_architecture
class Family(blendprune.Architecture):
    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return isinstance(model, Detector)

    def stages(
        self, batched_inputs: list[dict[str, Any]], training_branches: bool = False
    ) -> list[blendprune.Stage]:
        return [blendprune.Stage(lambda count: self.model(batched_inputs), count=100)]


@blendprune.register_channel_wise
class Scale(torch.autograd.Function):
    """An operator of the user's."""


assert_type(Family(Detector()), Family)
blendprune.register_flops("mylib::my_op", lambda result, x: x.numel())
blendprune.register_channel_wise(Detector)  # type: ignore[type-var]
blendprune.register_flops(Detector(), len)  # type: ignore[arg-type]
