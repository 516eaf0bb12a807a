"""How much of one model's features can be read off another's, as a loss."""

import torch

# What a step's statistics count for in the next.
_DECAY = 0.9
# Penalty on the weights, as a fraction of the mean squared input.
_RIDGE = 1e-3


class FeatureRegression:
    """Share of the variance of the teacher's features that the student's do not explain linearly.

    FitNets (arXiv:1412.6550) trains a layer that predicts the teacher's features from the
    student's. Here it is solved for at every step, by least squares over the positions of this step
    and, fading, of those before: it is right from the first step on, it has no learning rate, and
    nothing is added to the model.
    """

    def __init__(self):
        self._moments = None

    def __call__(self, ours, theirs):
        """Compare one level of one step.

        Args:
            ours (Tensor): (N, C, …), the student's, with gradients.
            theirs (Tensor): (N, D, …), the teacher's at the same positions.

        Returns:
            Tensor: a scalar; 0 where the teacher's can be read off, 1 where nothing can.
        """
        x, y = (each.movedim(1, -1).flatten(0, -2).float() for each in (ours, theirs))
        # Under automatic mixed precision, products would be of half precision again.
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
        # Those of a wider student, before a cut, say nothing of this one.
        if self._moments is not None and self._moments[0].shape == moments[0].shape:
            moments = [new + _DECAY * old for new, old in zip(moments, self._moments)]
        self._moments = moments
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
