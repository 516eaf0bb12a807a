"""BlendMask of our own, for machines without AdelaiDet; operators, for those without a compiler.

Importing this package, or any module in it, changes nothing in detectron2; :func:`register` does.

==================  ==========================================================================
module              holds
==================  ==========================================================================
``config``          ``add_blendmask_config``: the config keys
``blendmask``       ``BlendMask``: the meta architecture
``backbone``        ``build_fcos_resnet_fpn_backbone`` with its P6 and P7 levels
``fcos``            ``FCOS``: the box branch, with ``fcos_targets``, ``fcos_losses``,
                    ``fcos_outputs`` for its targets, losses and detections
``basis_module``    ``ProtoNet``: the bottom branch that draws the bases
``blender``         ``Blender``: bases and attentions become masks
``layers``          the layers detectron2 lacks
``normalizer``      ``Normalizer``: pixel mean and deviation
``deform_conv``     ``DeformConv``, ``ModulatedDeformConv`` where detectron2 is not compiled
``bezier_align``    ``bezier_align``: resampling between Bezier curves
``extension``       a placeholder for AdelaiDet's extension where that is not compiled
==================  ==========================================================================
"""

import importlib.util
import sys

__all__ = ["register"]


def register():
    """Make ``MODEL.META_ARCHITECTURE: BlendMask`` known to detectron2; calling twice is once.

    If AdelaiDet is importable, its own classes and config keys are used, and nothing of ours is
    registered. Otherwise our ``BlendMask``, ``FCOS`` and ``build_fcos_resnet_fpn_backbone`` enter
    detectron2's registries and our config keys its defaults. A name that somebody else has
    registered already, and a key that exists, are kept.

    Returns:
        str: ``"adet"`` or ``"blendprune"``, the package whose BlendMask is in use.

    Raises:
        ImportError: AdelaiDet is importable, but one of its own imports fails.
    """
    if _adelaidet_is_importable():
        from .operators.extension import standing_in

        with standing_in():  # what registers keys, datasets and classes are these imports
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
    # find_spec raises for a module that was put into sys.modules by hand, without a spec.
    return "adet" in sys.modules or importlib.util.find_spec("adet") is not None
