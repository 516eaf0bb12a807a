"""What a checkpoint or an exported file is, read without running anything from it."""

import os

from tabulate import tabulate

from ..checkpoint import read_checkpoint, struct_in
from ..checkpoint.loading import build_read, load_read
from ..checkpoint.reading import weights_in
from ..deployment.runtime.file import read_file
from ..errors import first_line
from ..pruning.cost.count import count_flops
from ..pruning.graph.inputs import config_inputs
from ..structure import is_pruned


def describe_file(path):
    """Say what a file is, and how it is used.

    A checkpoint with a ``"struct"`` is built from the config in it, with the classes that are
    registered, to count its FLOPs.

    Args:
        path (str): of a checkpoint, or of an exported ``.onnx`` file.

    Returns:
        dict: ``"file"``, ``"kind"`` (``"checkpoint"`` or ``"exported"``), ``"mb"`` (10^6 bytes),
        ``"use"``. Of a checkpoint: ``"architecture"`` and ``"pruned"`` (None: it has no
        ``"struct"``), ``"values"`` (numbers in the state dict; ``"before"`` pruning and
        ``"now"``), ``"widths"`` (of each layer: ``"before"``, if it was pruned, and ``"now"``),
        ``"iteration"``, ``"gflops"`` (of one image of the config's size) or ``"not_counted"``
        (why not), ``"flops_left"`` (fraction of the dense model's, if it was pruned). Of an
        exported file: ``"family"``, ``"cores"`` (``"file"``, ``"inputs"`` and ``"outputs"`` of
        each).

    Raises:
        CheckpointError: it cannot be read, or is no checkpoint.
        StructError: its ``"struct"`` is malformed.
        DeployError: an ``.onnx`` file was not exported by blendprune.
    """
    return _exported(path) if path.endswith(".onnx") else _checkpoint(path)


def _exported(path):
    metadata, paths = read_file(path)
    return {
        "file": path,
        "kind": "exported",
        "family": metadata.family,
        "mb": round(sum(os.path.getsize(each) for each in set(paths.values())) / 1e6, 3),
        "cores": {
            name: {"file": paths[name], "inputs": core.inputs, "outputs": core.outputs}
            for name, core in metadata.cores.items()
        },
        "use": f"blendprune.runtime.load({path!r})",
    }


def _checkpoint(path):
    checkpoint = read_checkpoint(path)
    struct, weights = struct_in(checkpoint), weights_in(checkpoint)
    tensors = [x for x in weights.values() if hasattr(x, "numel")]
    found = {
        "file": path,
        "kind": "checkpoint",
        "architecture": None,
        "pruned": None,
        "mb": round(sum(x.numel() * x.element_size() for x in tensors) / 1e6, 3),
        "values": {"now": sum(x.numel() for x in tensors)},
        "widths": {},
    }
    if type(iteration := checkpoint.get("iteration")) is int and 0 <= iteration < 1 << 63:
        found["iteration"] = iteration
    if struct is None:
        use = f"MODEL.WEIGHTS {path}, with its config; or blendprune.load({path!r}, model=model)"
        return {**found, "use": use}
    found["architecture"], found["pruned"] = struct["meta_architecture"], is_pruned(struct)
    found["values"] = {"before": struct["dense_size"], "now": struct["size"]}
    found["widths"] = _widths(struct)
    found["use"] = f"blendprune.load({path!r})"
    if not struct["config"]:
        found["use"] = f"blendprune.load({path!r}, model=model), with the dense model"
    if found["pruned"]:
        found["use"] += f"; to train: MODEL.FINETUNE True MODEL.WEIGHTS {path}"
    try:
        flops = _flops(load_read(checkpoint, path, device="cpu"))
        counted = {"gflops": round(flops / 1e9, 3)}
        if found["pruned"]:
            dense = _flops(build_read(checkpoint, path, device="cpu").eval())
            counted["flops_left"] = round(flops / dense, 4)
        found |= counted
    except Exception as error:  # a config from a file may build what does not run
        found["not_counted"] = first_line(error)
    return found


def _flops(model):
    return sum(count_flops(model, config_inputs(model)).values())


def _widths(struct):
    """Output widths of convs and linears, before and now."""
    before, found = struct.get("dense") or {}, {}
    for name, entry in struct["modules"].items():
        for key in ("out_channels", "out_features"):
            if key in entry and "weight" in entry:  # a block has a width, too
                old = before.get(name, {}).get(key)
                found[name] = {**({"before": old} if old is not None else {}), "now": entry[key]}
    return found


def info_table(found):
    """The result of :func:`describe_file` as text.

    Args:
        found (dict): see there.

    Returns:
        str: several lines.
    """
    rows = [("file", found["file"]), ("kind", found["kind"])]
    if found["kind"] == "exported":
        rows.append(("family", found["family"]))
        rows.append(("size", f"{found['mb']} MB"))
        for name, core in found["cores"].items():
            rows.append((f"core {name!r}", f"{core['file']}: {', '.join(core['inputs'])} →"))
            rows.append(("", ", ".join(core["outputs"])))
    else:
        rows += _checkpoint_rows(found)
    rows.append(("use", found["use"]))
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _checkpoint_rows(found):
    values, widths = found["values"], found["widths"]
    rows = [("architecture", found["architecture"] or 'unknown: the file has no "struct"')]
    if found["pruned"]:
        changed = [w for w in widths.values() if w.get("before", w["now"]) != w["now"]]
        share = values["now"] / values["before"]
        rows.append(("pruned", f"yes: {share:.1%} of the weights are left; {len(changed)} layers"))
    elif found["pruned"] is not None:
        rows.append(("pruned", "no"))
    rows.append(("weights", f"{values['now'] / 1e6:.2f} M, {found['mb']} MB of the file"))
    if "gflops" in found:
        left = found.get("flops_left")
        share = "" if left is None else f"; {left:.3f} of the dense model's"
        rows.append(("FLOPs", f"{found['gflops']} G, one image as its config has it{share}"))
    if "not_counted" in found:
        rows.append(("FLOPs", f"not counted: {found['not_counted']}"))
    if "iteration" in found:
        rows.append(("iteration", str(found["iteration"])))
    return rows
