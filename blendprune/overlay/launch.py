"""``detectron2.engine.launch``: worker processes get the overlay of their parent.

Extended: the function, which starts one fresh interpreter per GPU. A script that calls ``apply()``
at its top is imported again by each of them and needs no help; under ``blendprune run``, or with
the call below ``if __name__ == "__main__"``, the workers would train without the patches.
"""

from ._patch import Patch


class Worker:
    """A main function that applies the overlay in whatever process it is unpickled in."""

    def __init__(self, main_func, on_drift):
        self.main_func = main_func
        self.on_drift = on_drift

    def __call__(self, *args):
        return self.main_func(*args)

    def __setstate__(self, state):
        from . import apply

        self.__dict__.update(state)
        apply(self.on_drift)


def launch(wrapped, instance, args, kwargs):
    """Launch, with the overlay carried along."""
    from . import drift_policy

    if args:
        args = (Worker(args[0], drift_policy()), *args[1:])
    else:
        kwargs = {**kwargs, "main_func": Worker(kwargs["main_func"], drift_policy())}
    return wrapped(*args, **kwargs)


def _install(module, edits):
    edits.wrap_function(module, "launch", launch)


PATCHES = [
    Patch(
        name="carry-overlay-to-workers",
        module="detectron2.engine.launch",
        watches=("launch",),
        digests=("7998e48cfa0909b0", "711b9127fb3763ea"),
        install=_install,
    )
]
