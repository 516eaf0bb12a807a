"""What blendprune must know of the detector beside: the file that its user adds."""

import torch
from model import MAX_INSTANCES, BentReLU, CentreDetector, ChannelScale

import blendprune

# The operator treats every channel alone, so its channels may be pruned.
blendprune.register_channel_wise(BentReLU)
# One multiplication per number; without a formula of its own an element-wise operator is free.
blendprune.register_flops(ChannelScale, lambda module, inputs, output: output.numel())


@blendprune.register_architecture
class CentreDetection(blendprune.Architecture):
    """Two stages: the image, then the head that describes each instance."""

    @classmethod
    def matches(cls, model):
        return isinstance(model, CentreDetector)

    def stages(self, batched_inputs, training_branches=False):
        model, seen = self.model, {}

        def image(_):
            seen["features"] = model.features(batched_inputs)
            model.predict(seen["features"])

        def instances(count):
            height, width = batched_inputs[0]["image"].shape[1:]
            box = torch.tensor([[0.0, 0, width, height]])
            model.describe(seen["features"], [box.repeat(count, 1) for _ in batched_inputs])

        # Costs count for as many instances as inference keeps at most.
        return [blendprune.Stage(image), blendprune.Stage(instances, MAX_INSTANCES)]
