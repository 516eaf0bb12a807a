"""A distillation loss: how well a linear map predicts one model's features from another's."""

import torch

# Weight of the earlier steps' statistics, per step.
_DECAY = 0.9
# Ridge penalty, as a fraction of the mean input variance.
_RIDGE = 1e-3


class FeatureRegression:
    """Fraction of the teacher's feature variance that the student's features do not predict.

    FitNets (arXiv:1412.6550) trains a layer that predicts the teacher's features from the
    student's. Here each step solves for that linear layer by ridge regression, over the positions
    of this step and, with decaying weight, of earlier steps. So the layer fits from the first step
    on, has no learning rate, and adds nothing to the model.

    Attributes:
        moments (list[Tensor] | None): statistics of the steps so far.
    """

    def __init__(self):
        self.moments = None

    def __call__(self, student, teacher):
        """Compute the loss of one feature level at one step.

        Args:
            student (Tensor): (N, C, …), the student's features, with gradients.
            teacher (Tensor): (N, D, …), the teacher's features at the same positions.

        Returns:
            Tensor: a scalar: 0 if the prediction is exact, 1 if it is no better than the mean.
        """
        x, y = (each.movedim(1, -1).flatten(0, -2).float() for each in (student, teacher))
        # Autocast would compute the products in half precision.
        with torch.autocast(x.device.type, enabled=False):
            matrix, shift, variance = self._solve(x.detach(), y)
            return (x @ matrix + shift - y).square().mean() / variance

    def _solve(self, x, y):
        ones = x.new_ones(len(x), 1)
        moments = [
            torch.cat([x, ones], 1).T @ torch.cat([x, y, ones], 1),
            y.square().sum(0),
        ]
        moments = [each.double() for each in moments]
        # Statistics from before a pruning step have another shape and no longer apply.
        if self.moments is not None and self.moments[0].shape == moments[0].shape:
            moments = [new + _DECAY * old.to(new) for new, old in zip(moments, self.moments)]
        self.moments = moments
        products, squares = moments
        count, width = products[-1, -1], x.shape[1]
        means = products[-1, :-1] / count
        x_mean, y_mean = means[:width], means[width:]
        covariances = products[:-1, :-1] / count - x_mean[:, None] * means
        inputs, outputs = covariances.split([width, len(y_mean)], 1)
        penalty = _RIDGE * inputs.diagonal().mean() + 1e-12
        inputs.diagonal().add_(penalty)
        matrix = torch.linalg.solve(inputs, outputs)
        variance = (squares / count - y_mean.square()).mean().clamp(min=1e-6)
        return matrix.float(), (y_mean - x_mean @ matrix).float(), variance.float()
