"""CondInst and BoxInst of AdelaiDet: a controller predicts the convs of each instance."""

from .default import Architecture, Stage
from .given import fcos_instances, fcos_limit, has_parts, normalized_images
from .registry import register_architecture


@register_architecture
class CondInst(Architecture):
    """Two stages: the image, then the dynamic convs of each instance."""

    @classmethod
    def matches(cls, model):
        return has_parts(model, "controller", "mask_branch", "mask_head.num_gen_params")

    def stages(self, batched_inputs, training_branches=False):
        model, seen = self.model, {}

        def image(_):
            seen["images"] = images = normalized_images(model, batched_inputs)
            features = model.backbone(images.tensor)
            seen["maps"], _ = model.mask_branch(features, None)
            model.proposal_generator(images, features, None, model.controller)

        def masks(count):
            given = fcos_instances(seen["images"], count)
            for instances in given:
                size = (count, model.mask_head.num_gen_params)
                instances.top_feat = seen["maps"].new_zeros(size)
            model._forward_mask_heads_test(given, seen["maps"])

        return [Stage(image), Stage(masks, fcos_limit(model.proposal_generator))]
