"""What is installed, which patches apply, which engines and devices there are."""

import importlib.metadata
import importlib.util
import os
import re

import torch
from tabulate import tabulate

from ..deployment.extra import PACKAGES
from ..pruning.cost.latency import device_name
from ..pruning.search.rounding import AUTO, choose_rounding, rounding_words

# Beside what detectron2's own report has.
_PACKAGES = ("blendprune", "torch-pruning", "wrapt", "AdelaiDet", *PACKAGES, "nncf")
# What detectron2's own report says of a build without its extension, as of the wheel on PyPI.
_NO_EXTENSION = re.compile(r"^detectron2\._C .*not built correctly.*$", re.M)
_NOT_NEEDED = r"\g<0>; not needed: NMS, ROIAlign and deformable convs are torchvision's"
_VARIABLES = ("DETECTRON2_DATASETS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")


def examine(patches):
    """Look at this machine.

    Args:
        patches (list[PatchStatus]): from :func:`blendprune.status`, after the targets were
            imported.

    Returns:
        dict: ``"packages"`` (name → version, or None), ``"devices"`` (device → name, and what
        widths are rounded to there), ``"engines"`` (what an exported file can run on),
        ``"threads"``, ``"variables"`` (of the environment), ``"patches"`` (state → names),
        ``"problems"`` (sentences with a next step), ``"detectron2"`` (its own report, as text).
    """
    from detectron2.utils.collect_env import collect_env_info

    states = {}
    for patch in patches:
        states.setdefault(patch.state, []).append(patch.name)
    return {
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": {
            str(device): f"{device_name(device)}; widths: {rounding_words(_rounding(device))}"
            for device in _devices()
        },
        "engines": {**_onnxruntime(), **_openvino()},
        "threads": torch.get_num_threads(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "patches": states,
        "problems": [*_drifted(patches), *_missing()],
        "detectron2": collect_env_info(),
    }


def doctor_table(found):
    """The result of :func:`examine` as text, to be pasted into a report of a fault.

    Args:
        found (dict): see there.

    Returns:
        str: several lines.
    """
    rows = [(name, version or "not installed") for name, version in found["packages"].items()]
    rows += found["devices"].items()
    rows += found["engines"].items()
    rows.append(("threads", found["threads"]))
    rows += found["variables"].items()
    rows += [(f"patches {state}", len(names)) for state, names in found["patches"].items()]
    problems = [f"- {problem}" for problem in found["problems"]] or ["nothing is wrong"]
    table = tabulate(rows, tablefmt="plain", disable_numparse=True)
    detectron2 = _NO_EXTENSION.sub(_NOT_NEEDED, found["detectron2"].strip())
    return "\n".join([table, "", detectron2, "", *problems])


def _devices():
    cuda = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [torch.device("cpu"), *cuda]


def _rounding(device):
    return choose_rounding(AUTO, device).to_dict()


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # A checkout on PYTHONPATH has no metadata.
        module = importlib.util.find_spec({"AdelaiDet": "adet"}.get(name, name.replace("-", "_")))
        return f"at {os.path.dirname(module.origin)}" if module and module.origin else None


def _onnxruntime():
    if not importlib.util.find_spec("onnxruntime"):
        return {}
    import onnxruntime

    return {"onnxruntime runs on": ", ".join(onnxruntime.get_available_providers())}


def _openvino():
    if not importlib.util.find_spec("openvino"):
        return {}
    import openvino

    return {"openvino runs on": ", ".join(openvino.Core().available_devices)}


def _drifted(patches):
    return [
        f"patch {patch.name}: {patch.target} is not what the patch was written for "
        f"({patch.detail}): install a version of upstream that docs/how-it-works.md lists"
        for patch in patches
        if patch.state == "drifted"
    ]


def _missing():
    missing = [name for name in PACKAGES if not importlib.util.find_spec(name)]
    if missing:
        yield (
            f"{', '.join(missing)} not installed, which only export and the runtimes need: "
            "pip install 'blendprune[deploy]'"
        )
