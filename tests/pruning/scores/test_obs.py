"""The score `obs`: what it leaves behind."""

import gc
import weakref

import blendprune


def test_a_model_that_was_scored_is_freed(blendmask, images, training_batch):
    model = blendmask()
    blendprune.prune(
        model, images, max_flops=0.8, importance="obs", data=[training_batch()], rounds=1
    )
    weights = [weakref.ref(p) for p in model.parameters()]
    del model
    gc.collect()
    assert not any(weight() is not None for weight in weights)
