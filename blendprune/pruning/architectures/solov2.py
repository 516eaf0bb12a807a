"""SOLOv2 of AdelaiDet: kernels of instances are convolved with one mask feature."""

import torch.nn.functional as F

from .default import Architecture, Stage
from .given import has_parts
from .registry import register_architecture


@register_architecture
class SOLOv2(Architecture):
    """Two stages: the image, then the mask of each instance."""

    @classmethod
    def matches(cls, model):
        return has_parts(model, "ins_head", "mask_head.convs_all_levels", "split_feats")

    def stages(self, batched_inputs, training_branches=False):
        model, seen = self.model, {}

        def image(_):
            features = model.backbone(model.preprocess_image(batched_inputs).tensor)
            levels = [features[name] for name in model.instance_in_features]
            model.ins_head(model.split_feats(levels))
            seen["maps"] = model.mask_head([features[name] for name in model.mask_in_features])

        def masks(count):
            maps = seen["maps"]
            F.conv2d(maps, maps.new_zeros(count, maps.shape[1], 1, 1))

        return [Stage(image), Stage(masks, model.max_before_nms)]
