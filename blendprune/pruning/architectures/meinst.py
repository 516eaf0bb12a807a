"""MEInst of AdelaiDet: the head predicts an encoded mask at every position."""

from .default import Architecture, Stage
from .given import has_parts, normalized_images
from .registry import register_architecture


@register_architecture
class MEInst(Architecture):
    """One stage, up to the raw outputs."""

    @classmethod
    def matches(cls, model):
        return has_parts(model, "proposal_generator.MEInst_head")

    def stages(self, batched_inputs, training_branches=False):
        model, generator = self.model, self.model.proposal_generator

        def image(_):
            features = model.backbone(normalized_images(model, batched_inputs).tensor)
            generator.MEInst_head([features[name] for name in generator.in_features])

        return [Stage(image)]
