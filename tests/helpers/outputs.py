"""Raw outputs of a model, to compare."""

from blendprune.pruning import head_outputs
from blendprune.pruning.tracing.hooks import evaluating


def outputs_of(model, images):
    """All raw outputs in eval mode, without gradients."""
    with evaluating(model):
        return head_outputs(model, images)


def predictions_of(model, images):
    """The outputs of the prediction layers alone, in eval mode."""
    # With gradients, so that what the prediction layers gave is told from the rest.
    with evaluating(model, grad=True):
        return [output.detach() for output in head_outputs(model, images)]
