"""What a model holds, to compare it with what it held before."""

import torch


def remember(model):
    """A copy of the state dict, and the class and mode of every module."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    return state, [(type(m), m.training) for m in model.modules()]


def unchanged(model, before):
    """Whether the model is as :func:`remember` found it, without gradients."""
    state, kinds = before
    return (
        list(model.state_dict()) == list(state)
        and all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        and [(type(m), m.training) for m in model.modules()] == kinds
        and all(p.grad is None for p in model.parameters())
    )
