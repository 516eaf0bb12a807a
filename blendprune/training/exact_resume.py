"""Trainings that resume exactly: what upstream's checkpoints leave out."""

import contextlib
import logging
import weakref

import torch
from detectron2.engine.hooks import PreciseBN
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from ..checkpoint.reading import also_save, save_no_more
from ..wrappers import unwrap
from .images import ImageStream, seed_random_states

# Below upstream's logger, which every training script sets up.
_log = logging.getLogger("detectron2.blendprune.training")

_KEY = "resumption"
_loaded = weakref.WeakKeyDictionary()  # model → what its last checkpoint has under the key


class ExactResume(HookBase):
    """Lets a training that was interrupted end as if it had not been.

    Upstream's checkpoints have the weights, the optimizer and the schedule. This hook, which comes
    first, adds the rest to every checkpoint of the model:

    - one seed. The random numbers of each iteration follow from it, the iteration and the process;
    - the position in the images (:class:`ImageStream`), also of PreciseBN's loader;
    - numbers that the model keeps outside its state dict, as RetinaNet its loss normalizer;
    - the state of hooks, if the checkpointer does not save the trainer (AdelaiDet's, own loops).

    On the CPU, scripted functions (the focal loss) run as they are written meanwhile: PyTorch would
    optimize them after their first calls, which changes how they round.

    A training that resumes from a checkpoint without these, or with a loader of another kind, says
    in the log what begins anew.
    """

    def __init__(self):
        self._seed, self._streams, self._scripts = None, {}, contextlib.ExitStack()

    def before_train(self):
        trainer = self.trainer
        model, state = unwrap(trainer.model), {}
        loaded = _loaded.pop(model, None)
        resumes = trainer.start_iter > 0 and self._seed is None
        if resumes and loaded is not None and loaded["iteration"] + 1 == trainer.start_iter:
            state = loaded
        if self._seed is None:
            self._seed = state.get("seed", comm.shared_random_seed())
            self._built = _numbers(model)
            self._take(state, model)
            problems = self._follow_images(state.get("streams", {}))
            if resumes:
                _warn(state, problems)
        also_save(model, self.state)
        if all(p.device.type == "cpu" for p in model.parameters()):
            self._scripts.enter_context(torch.jit.optimized_execution(False))
        self._seed_iteration(0)

    def before_step(self):
        self._seed_iteration(self.trainer.iter + 1)

    def after_train(self):
        self._scripts.close()
        save_no_more(unwrap(self.trainer.model))

    def state(self):
        """What a checkpoint holds of the training beside what upstream saves: plain data."""
        trainer, numbers = self.trainer, _numbers(unwrap(self.trainer.model))
        state = {
            "iteration": trainer.iter,
            "seed": self._seed,
            "processes": comm.get_world_size(),
            "numbers": [[*key, x] for key, x in numbers.items() if self._built.get(key) != x],
            "streams": {
                name: stream.state_dict()
                for name, (stream, place, attribute) in self._streams.items()
                if getattr(place, attribute) is stream and stream.is_read
            },
        }
        checkpointer = getattr(trainer, "checkpointer", None)
        if "trainer" not in getattr(checkpointer, "checkpointables", ()):
            found = {type(hook).__qualname__: hook.state_dict() for hook in trainer._hooks}
            state["hooks"] = {name: each for name, each in found.items() if each}
        return {_KEY: state}

    def _seed_iteration(self, number):
        seed_random_states(self._seed, comm.get_rank(), number)

    def _take(self, state, model):
        modules = dict(model.named_modules())
        for name, attribute, value in state.get("numbers", ()):
            if name in modules:
                setattr(modules[name], attribute, value)
        for hook in self.trainer._hooks:
            found = state.get("hooks", {}).get(type(hook).__qualname__)
            if found is not None:
                hook.load_state_dict(found)

    def _follow_images(self, states):
        """Make streams of the loaders; returns why one begins anew."""
        trainer = self.trainer
        places = {"train": (trainer, "data_loader")}
        for hook in trainer._hooks:
            if isinstance(hook, PreciseBN):
                places["precise BN"] = hook, "_data_loader"
        problems = []
        for name, (place, attribute) in places.items():
            try:
                if getattr(getattr(trainer, "_trainer", trainer), "_data_loader_iter_obj", None):
                    raise TypeError("a loader that is being read already")
                stream = ImageStream(getattr(place, attribute, None), self._seed)
                setattr(place, attribute, stream)
                self._streams[name] = stream, place, attribute
                if name in states:
                    stream.load_state_dict(states[name])
            except (TypeError, ValueError) as error:
                problems.append(str(error))
        return problems


def remember_resumption(checkpoint, model):
    """Keep what :class:`ExactResume` has added to a checkpoint until the training begins.

    Args:
        checkpoint (dict): about to be loaded.
        model (nn.Module): to load it into, wrapped or not.
    """
    state = checkpoint.get(_KEY)
    if isinstance(state, dict):
        _loaded[unwrap(model)] = state


def _warn(state, problems):
    if not state:
        _log.warning(
            "the checkpoint does not say which images the training has seen, because it was saved "
            "without blendprune's hooks: the images begin anew"
        )
    elif problems:
        _log.warning(
            "the images begin anew: only a loader of build_detection_train_loader with a training "
            "sampler of detectron2 can go on, but this training has %s",
            " and ".join(problems),
        )
    elif (state["processes"], comm.get_world_size()) != (1, 1):
        _log.warning(
            "the images go on about where they were: only a training in one process resumes exactly"
        )


def _numbers(model):
    """Floats that modules have as attributes: a state that no state dict holds."""
    return {
        (name, attribute): value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if type(value) is float
    }
