"""Ridge regression of the missing outputs of a layer on its inputs."""

import functools

import torch

from ... import distributed

# Positions that are summed up at a time: centred copies of all of them would take much memory.
_BLOCK = 4096


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
    if shifts is None:
        x_mean, y_mean = (rows.new_zeros(0, *rows.shape[1:]) for rows in (inputs, lacking))
    else:
        x_mean, y_mean = _means(shifts, inputs, lacking)

    def centred(part):
        x, y = inputs[part], lacking[part]
        if shifts is not None:
            x, y = x - x_mean[shifts[part]], y - y_mean[shifts[part]]
        return x.transpose(0, 1), y.transpose(0, 1)

    count, width = len(inputs), inputs.shape[2]
    blocks = [slice(start, start + _BLOCK) for start in range(0, max(count, 1), _BLOCK)]
    # Of the two forms of the solution, the one with the smaller system.
    if sum(distributed.gathered(count)) >= width:
        sums = (_products(*centred(block)) for block in blocks)
        gram, right, squares = _summed(*functools.reduce(_added, sums))
        change = _solve(gram, right, ridge * squares / width + 1e-12)
    else:
        x, y = centred(slice(None))
        [squares] = _summed(_squares(x))
        x, y = distributed.joined(x, 1), distributed.joined(y, 1)
        change = x.mT.double() @ _solve(x @ x.mT, y, ridge * squares / width + 1e-12)
    change = change.to(inputs.dtype).mT
    return change, y_mean - torch.einsum("ngd,god->ngo", x_mean, change)


def _products(x, y):
    return x.mT @ x, x.mT @ y, _squares(x)


def _squares(x):
    return x.double().square().sum((1, 2))


def _added(sums, more):
    return [each.add_(other) for each, other in zip(sums, more)]


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
