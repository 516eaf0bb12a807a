"""The front door: what the package exports, and what each error descends from."""

import inspect

import blendprune
from blendprune import errors


def test_every_public_name_can_be_had():
    for name in blendprune.__all__:
        assert getattr(blendprune, name) is not None
    assert blendprune.__all__ == sorted(blendprune.__all__)
    assert dir(blendprune) == blendprune.__all__


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(blendprune, "nothing")


def test_every_error_is_in_the_tree_and_documented_there():
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    assert all(issubclass(c, errors.BlendpruneError) for c in classes)
    assert all(c.__name__ in errors.__doc__ and c.__doc__ for c in classes)
