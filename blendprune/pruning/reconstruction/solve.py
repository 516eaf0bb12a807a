"""Ridge regression of what a layer lacks on what it sees."""

import torch


def ridge_regression(inputs, lacking, intercept, ridge):
    """The least-squares change of a matrix, drawn towards none.

    Args:
        inputs (Tensor): (positions, G, d).
        lacking (Tensor): (positions, G, o), what the outputs should be less what they are.
        intercept (bool): whether the layer can shift its outputs.
        ridge (float): penalty, as a fraction of the mean squared input (summed over positions).

    Returns:
        tuple[Tensor, Tensor]: the change of the matrix, (G, o, d), and of the outputs' shift,
        (G, o), zeros without an intercept.
    """
    x, y = inputs.transpose(0, 1), lacking.transpose(0, 1)
    x_mean, y_mean = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    if not intercept:
        x_mean, y_mean = torch.zeros_like(x_mean), torch.zeros_like(y_mean)
    x, y = x - x_mean, y - y_mean
    count, width = x.shape[1:]
    penalty = ridge * x.double().square().sum((1, 2)) / width + 1e-12
    # Of the two forms of the solution, the one with the smaller system.
    if count >= width:
        change = _solve(x.mT @ x, x.mT @ y, penalty)
    else:
        change = x.mT.double() @ _solve(x @ x.mT, y, penalty)
    change = change.to(x.dtype).mT
    shift = y_mean - x_mean @ change.mT
    return change, shift[:, 0]


def _solve(gram, right, penalty):
    gram = gram.double()
    gram.diagonal(dim1=1, dim2=2).add_(penalty[:, None])
    return torch.cholesky_solve(right.double(), torch.linalg.cholesky(gram))
