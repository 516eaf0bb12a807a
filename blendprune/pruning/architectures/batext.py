"""BAText (ABCNet) of AdelaiDet: a recogniser reads the text of each instance."""

import torch

from ..tracing.hooks import no_gradients_from_recurrent_layers
from .default import Architecture, Stage
from .given import fcos_instances, fcos_limit, has_parts
from .registry import register_architecture


@register_architecture
class BAText(Architecture):
    """Two stages: the image, then the text of each instance. Recurrent layers are not pruned."""

    @classmethod
    def matches(cls, model):
        return has_parts(model, "top_module", "roi_heads.recognizer", "roi_heads.pooler")

    def stages(self, batched_inputs, training_branches=False):
        model, seen = self.model, {}

        def image(_):
            seen["images"] = images = model.preprocess_image(batched_inputs)
            seen["features"] = model.backbone(images.tensor)
            model.proposal_generator(images, seen["features"], None, model.top_module)

        def texts(count):
            given = fcos_instances(seen["images"], count)
            for instances in given:
                height, width = instances.image_size
                line = torch.linspace(0, width, 4, device=instances.locations.device)
                upper = torch.stack([line, torch.zeros_like(line)], 1)
                lower = torch.stack([line.flip(0), torch.full_like(line, height)], 1)
                instances.top_feat = torch.cat([upper, lower]).view(1, 16).repeat(count, 1)
            with no_gradients_from_recurrent_layers(model.roi_heads):
                model.roi_heads(None, seen["features"], given)

        return [Stage(image), Stage(texts, fcos_limit(model.proposal_generator))]

    def dummy_labels(self, image):
        labels = super().dummy_labels(image)
        labels["instances"].beziers = torch.zeros(1, 16)
        labels["instances"].text = torch.zeros(1, 25, dtype=torch.int32)
        return labels
