"""FCPose of AdelaiDet: a top module predicts the keypoint head of each instance."""

import torch

from .default import Architecture, Stage
from .given import fcos_instances, fcos_limit, has_parts, normalized_images
from .registry import register_architecture


@register_architecture
class FCPose(Architecture):
    """Two stages: the image, then the keypoint head of each instance."""

    @classmethod
    def matches(cls, model):
        return has_parts(model, "proposal_generator.fcpose_head", "proposal_generator.basis_module")

    def stages(self, batched_inputs, training_branches=False):
        model, seen = self.model, {}
        generator = model.proposal_generator

        def image(_):
            seen["images"] = images = normalized_images(model, batched_inputs)
            features = model.backbone(images.tensor)
            levels = [features[name] for name in generator.fcos.in_features]
            *_, seen["top"], _ = generator.fcos.fcos_head(levels, generator.top_module, False)
            seen["bases"], _ = generator.basis_module(features)

        def poses(count):
            given = fcos_instances(seen["images"], count)
            for instances, top in zip(given, seen["top"][0]):
                # One position stands for the position of every instance.
                instances.top_feat = top.flatten(1).t()[:1].expand(count, -1)
            bases = seen["bases"]
            generator.fcpose_head(bases["bases"], given, None, None, bases["basis_seg"])

        return [Stage(image), Stage(poses, fcos_limit(generator.fcos))]

    def dummy_labels(self, image):
        labels = super().dummy_labels(image)
        # Strides 2 and 8 of the image, padded to multiples of 32.
        half = [16 * (-(-side // 32)) for side in image.shape[1:]]
        instances = labels["instances"]
        instances.keypoint_heatmap = instances.head_heatmap = torch.ones(1, 17, *half)
        instances.p3_output_list = torch.ones(1, 17, *(side // 4 for side in half))
        return labels
