"""A BlendMask for machines without AdelaiDet, and operators for those without a compiler.

Importing this package changes nothing in detectron2; :func:`register` does.

====================  ========================================================================
module                contents
====================  ========================================================================
``blendmask_config``  ``add_blendmask_config``: the config keys
``blendmask``         ``BlendMask``: the meta architecture
``backbone``          ``build_fcos_resnet_fpn_backbone`` with its P6 and P7 levels
``fcos``              ``FCOS``: the box branch; ``fcos_targets``, ``fcos_losses`` and
                      ``fcos_outputs`` compute its targets, losses and detections
``basis_module``      ``ProtoNet``: the bottom branch, which computes the bases
``blender``           ``Blender``: turns bases and attentions into masks
``layers``            layers that detectron2 lacks
``normalizer``        ``Normalizer``: pixel mean and standard deviation
``attention``         attention of detectron2's transformers with fewer heads
``operators``         deformable convs, BezierAlign and a placeholder for AdelaiDet's extension
====================  ========================================================================
"""

import importlib.util
import sys

__all__ = ["register"]


def register():
    """Register BlendMask with detectron2; a second call changes nothing.

    If AdelaiDet is importable, its classes and config keys are used. Otherwise this package's
    ``BlendMask``, ``FCOS`` and ``build_fcos_resnet_fpn_backbone`` are added to detectron2's
    registries, and their config keys to its defaults. Existing names and keys are kept.

    Returns:
        str: ``"adet"`` or ``"blendprune"``, the package whose BlendMask is in use.

    Raises:
        ImportError: AdelaiDet is importable, but one of its own imports fails.
    """
    if _adelaidet_is_importable():
        from .operators.extension import standing_in

        with standing_in():  # these imports register keys, datasets and classes
            import adet.config.defaults
            import adet.data
            import adet.modeling  # noqa: F401
        return "adet"

    from detectron2.config.defaults import _C
    from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
    from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY

    from .backbone import build_fcos_resnet_fpn_backbone
    from .blendmask import BlendMask
    from .blendmask_config import add_blendmask_config
    from .fcos import FCOS

    for registry, entry in (
        (META_ARCH_REGISTRY, BlendMask),
        (PROPOSAL_GENERATOR_REGISTRY, FCOS),
        (BACKBONE_REGISTRY, build_fcos_resnet_fpn_backbone),
    ):
        if entry.__name__ not in registry:
            registry.register(entry)
    add_blendmask_config(_C)
    return "blendprune"


def _adelaidet_is_importable():
    # find_spec raises for a module in sys.modules that has no spec.
    return "adet" in sys.modules or importlib.util.find_spec("adet") is not None
