"""``FCOS.forward`` of AdelaiDet or this package: the early exit under ``model_prune``.

Extended: if ``model_prune`` is set on the instance, forward returns the raw head outputs, because
targets, losses and NMS would break the gradient graph. Otherwise nothing changes.
"""

from ._patch import Patch, importable


def forward(wrapped, instance, args, kwargs):
    """Return the raw head outputs if ``model_prune`` is set, else upstream's results.

    Returns:
        tuple[dict, dict]: lists of tensors, one per FPN level, under ``"logits"``, ``"reg"``,
        ``"ctrness"`` and ``"top_feats"``, and an empty dict instead of the losses.
    """
    if not getattr(instance, "model_prune", False):
        return wrapped(*args, **kwargs)
    return _head(instance, *args, **kwargs)


def _head(fcos, images, features, gt_instances=None, top_module=None):
    features = [features[name] for name in fcos.in_features]
    logits, reg, ctrness, top_feats, _ = fcos.fcos_head(features, top_module, False)
    return {"logits": logits, "reg": reg, "ctrness": ctrness, "top_feats": top_feats}, {}


def _install(module, edits):
    edits.wrap(module.FCOS, "forward", forward)


PATCHES = [
    Patch(
        name="exit-fcos-early",
        module="adet.modeling.fcos.fcos",
        watches=("FCOS.forward", "FCOSHead.forward"),
        digests=("0a3ce19402aba0ef",),
        install=_install,
        when=lambda: importable("adet"),
    ),
    Patch(
        name="exit-fcos-early",
        module="blendprune.modeling.fcos",
        watches=("FCOS.forward",),
        digests=(),
        install=_install,
        when=lambda: not importable("adet"),
    ),
]
