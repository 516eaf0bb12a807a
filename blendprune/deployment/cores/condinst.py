"""CondInst and BoxInst of AdelaiDet: FCOS's boxes, and the convs that a controller predicts."""

from ...modeling.aligned import enlarge_aligned
from . import schema
from .family import FAMILY_REGISTRY, Family, refuse_part, runs_as
from .fcos import FCOS_SETTINGS, is_fcos, take_fcos_apart
from .parts import COUNT, IMAGE

_WIDTH = schema.integer(1, 4096)


@FAMILY_REGISTRY.register()
class CondInst(Family):
    """One core: FCOS's raw outputs with the parameters of the convs, and the maps they run on."""

    settings = schema.record(
        image=IMAGE,
        fcos=FCOS_SETTINGS,
        mask_head=schema.record(
            layers=schema.integer(2, 64),
            width=_WIDTH,
            in_channels=schema.integer(0, 4096),
            coordinates=schema.boolean,
            sizes=schema.list_of(COUNT),
            stride=schema.integer(1, 1024),
            out_stride=schema.integer(1, 1024),
        ),
    )

    @classmethod
    def matches(cls, model):
        known = all(runs_as(model, x, "CondInst") for x in ("forward", "postprocess"))
        return known and is_fcos(model.proposal_generator)

    @classmethod
    def take_apart(cls, model):
        head, branch = model.mask_head, model.mask_branch
        if not runs_as(head, "mask_heads_forward_with_coords", "DynamicMaskHead"):
            raise refuse_part(model, head)
        if not runs_as(branch, "forward", "MaskBranch"):
            raise refuse_part(model, branch)
        shapes = model.backbone.output_shape()
        factors = [shapes[name].stride // branch.out_stride for name in branch.in_features]

        def more(core, features):
            return [_mask_features(core.mask_branch, features, factors)]

        parts = {"mask_branch": branch}
        cores, settings = take_fcos_apart(model, "controller", parts, more, ["mask_features"])
        return cores, {
            **settings,
            "mask_head": {
                "layers": int(head.num_layers),
                "width": int(head.channels),
                "in_channels": int(head.in_channels),
                "coordinates": not head.disable_rel_coords,
                "sizes": [int(size) for size in head.sizes_of_interest],
                "stride": int(branch.out_stride),
                "out_stride": int(head.mask_out_stride),
            },
        }


def _mask_features(branch, features, factors):
    """Upstream's forward with factors that do not depend on sizes, which an exporter could not fix.

    Args:
        branch (nn.Module): the mask branch.
        features (dict[str, Tensor]): feature maps.
        factors (list[int]): by which each map is enlarged.
    """
    total = 0
    for refine, name, factor in zip(branch.refine, branch.in_features, factors):
        total = total + enlarge_aligned(refine(features[name]), factor)
    return branch.tower(total)
