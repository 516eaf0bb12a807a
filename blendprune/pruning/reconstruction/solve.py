"""Ridge regression of the missing outputs of a layer on its inputs."""

import torch

from ... import distributed


def ridge_regression(inputs, lacking, shifts, ridge):
    """The change of a matrix by ridge regression; the penalty draws it towards 0.

    Processes that prune together each have some of the positions; all get the same result.

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
        x_mean, y_mean = _means(shifts, x, y)
        x, y = x - x_mean[shifts], y - y_mean[shifts]
    x, y = x.transpose(0, 1), y.transpose(0, 1)
    width = x.shape[2]
    squares = x.double().square().sum((1, 2))
    # Of the two forms of the solution, the one with the smaller system.
    if sum(distributed.gathered(x.shape[1])) >= width:
        gram, right, squares = _summed(x.mT @ x, x.mT @ y, squares)
        change = _solve(gram, right, ridge * squares / width + 1e-12)
    else:
        [squares] = _summed(squares)
        x, y = distributed.joined(x, 1), distributed.joined(y, 1)
        change = x.mT.double() @ _solve(x @ x.mT, y, ridge * squares / width + 1e-12)
    change = change.to(x.dtype).mT
    return change, y_mean - torch.einsum("ngd,god->ngo", x_mean, change)


def _means(which, *rows):
    """Means of the rows of each number, of each tensor: (numbers, …)."""
    counts = which.bincount()
    zeros = [each.new_zeros(len(counts), *each.shape[1:]) for each in rows]
    sums = [start.index_add_(0, which, each) for start, each in zip(zeros, rows)]
    counts, *sums = _summed(counts, *sums)
    return [each / counts.clamp(min=1)[:, None, None] for each in sums]


def _summed(*tensors):
    """The tensors, added up over the processes."""
    return list(distributed.summed(dict(enumerate(tensors))).values())


def _solve(gram, right, penalty):
    gram = gram.double()
    gram.diagonal(dim1=1, dim2=2).add_(penalty[:, None])
    return torch.cholesky_solve(right.double(), torch.linalg.cholesky(gram))
