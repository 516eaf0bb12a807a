"""``detectron2.engine.launch``: worker processes get their parent's overlay.

Extended: the function, which starts one new interpreter per GPU. Workers import the script again,
so an ``apply()`` at its top reaches them. Under ``blendprune run``, or with ``apply()`` below
``if __name__ == "__main__"``, they would train without the patches.
"""

from ._patch import Patch


class Worker:
    """A main function that applies the overlay in the process that unpickles it."""

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
    """Launch workers that apply the overlay."""
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
