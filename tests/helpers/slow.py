"""Cases that run by ``make test-slow`` alone, because others show the same in less time."""

import pytest


def slow_but(cases, *fast):
    """Mark the cases of a parametrization as slow, except some.

    Args:
        cases (Iterable[str]): all of them.
        fast (str): those that ``make test`` runs.

    Returns:
        list: for ``pytest.mark.parametrize``.
    """
    cases = list(cases)
    assert set(fast) <= set(cases)
    return [x if x in fast else pytest.param(x, marks=pytest.mark.slow) for x in cases]
