"""Ridge regression of the missing outputs of a layer on its inputs."""

import torch


def ridge_regression(inputs, lacking, shifts, ridge):
    """The change of a matrix by ridge regression; the penalty draws it towards 0.

    Args:
        inputs (Tensor): (positions, G, d).
        lacking (Tensor): (positions, G, o), wanted outputs minus present outputs.
        shifts (Tensor): (positions,) int64, number of the shift that a position gets, from 0;
            None if the layer has no shift.
        ridge (float): penalty, as a fraction of the mean squared input (summed over positions).

    Returns:
        tuple[Tensor, Tensor]: the change of the matrix, (G, o, d), and of the shifts of the
        outputs, (shifts, G, o).
    """
    x, y = inputs, lacking
    if shifts is None:
        x_mean, y_mean = x.new_zeros(0, *x.shape[1:]), y.new_zeros(0, *y.shape[1:])
    else:
        x_mean, y_mean = _means(x, shifts), _means(y, shifts)
        x, y = x - x_mean[shifts], y - y_mean[shifts]
    x, y = x.transpose(0, 1), y.transpose(0, 1)
    count, width = x.shape[1:]
    penalty = ridge * x.double().square().sum((1, 2)) / width + 1e-12
    # Of the two forms of the solution, the one with the smaller system.
    if count >= width:
        change = _solve(x.mT @ x, x.mT @ y, penalty)
    else:
        change = x.mT.double() @ _solve(x @ x.mT, y, penalty)
    change = change.to(x.dtype).mT
    return change, y_mean - torch.einsum("ngd,god->ngo", x_mean, change)


def _means(rows, which):
    """Mean of the rows of each number: (numbers, …)."""
    counts = which.bincount()
    sums = rows.new_zeros(len(counts), *rows.shape[1:]).index_add_(0, which, rows)
    return sums / counts.clamp(min=1)[:, None, None]


def _solve(gram, right, penalty):
    gram = gram.double()
    gram.diagonal(dim1=1, dim2=2).add_(penalty[:, None])
    return torch.cholesky_solve(right.double(), torch.linalg.cholesky(gram))
