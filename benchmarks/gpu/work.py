"""What is measured, the most important first."""

import contextlib
import functools
import time

import torch

import blendprune
from blendprune.pruning.cost.latency import quartiles, time_in_turns, wait_for_device
from blendprune.structure import structure_of

from .core import core_call, core_parts
from .models import dense_model, images_of, limit_candidates, pruned_model

# Name → (dtype, TF32). Automatic mixed precision and half precision use TF32 for the rest.
PRECISIONS = {
    "fp32": (None, False),
    "tf32": (None, True),
    "fp16": (torch.float16, True),
    "bf16": (torch.bfloat16, True),
}
# Form → how blendprune.deploy compiles; eager models are not deployed.
FORMS = {
    "eager": None,
    "deployed": False,
    "compiled": True,
    "cuda graphs": "reduce-overhead",
}


class Step:
    """One measurement.

    Args:
        name (str): key of its result.
        run (Callable): measures; returns JSON-ready data.
        seconds (float): that it takes on an H100, about; a step that would pass the budget is left
            out.
    """

    def __init__(self, name, run, seconds):
        self.name, self.run, self.seconds = name, run, seconds


class Work:
    """The steps for one device and size.

    Args:
        device (str): ``"cuda"`` or ``"cpu"``.
        height (int), width (int): of the images in pixels.
        small (bool): narrow models.
        runs (int): timed forwards.
        models (Sequence[str]): of :data:`benchmarks.gpu.models.MODELS`.
        batches (Sequence[int]): numbers of images of a forward.
        rounds_to (Sequence[int]): multiples that widths are rounded to.
    """

    def __init__(self, device, height, width, small, runs, models, batches, rounds_to):
        self.device, self.small, self.runs = device, small, runs
        self.models, self.batches, self.rounds_to = models, batches, rounds_to
        self.images = functools.cache(functools.partial(images_of, height, width, device))
        self._models = {}

    def steps(self):
        """All steps, in order.

        Returns:
            list[Step]: those of pruning come after the first timings.
        """
        widths = {
            "2x": ["dense", *((0.5, n) for n in self.rounds_to if n != 8)],
            "3x": ["dense", *((0.33, n) for n in self.rounds_to if n != 8)],
            "8": ["dense", (0.5, 8), (0.33, 8)],
            "pair": ["dense", (0.5, 16)],
        }

        def timings(form, precision, chosen, batches=self.batches, seconds=8):
            return [
                Step(
                    f"{model}, {form}, {precision}, batch {batch}, {chosen}",
                    functools.partial(self._time, model, form, precision, widths[chosen], batch),
                    seconds,
                )
                for model in self.models
                for batch in batches
            ]

        first = self.batches[:1]
        return [
            *timings("deployed", "fp16", "2x", seconds=20),
            *timings("eager", "tf32", "2x"),
            Step("channels", self._same_channels, 15),
            *(Step(f"pruning {m}", functools.partial(self._prune, m), 30) for m in self.models),
            *timings("compiled", "fp16", "pair", first, seconds=45),
            *timings("cuda graphs", "fp16", "pair", first, seconds=45),
            *timings("eager", "fp16", "2x"),
            *timings("deployed", "fp16", "3x", seconds=20),
            *timings("deployed", "tf32", "pair"),
            *timings("eager", "fp32", "pair"),
            *timings("deployed", "bf16", "pair"),
            *timings("eager", "bf16", "pair"),
            *timings("deployed", "fp16", "8", seconds=20),
        ]

    def _time(self, name, form, precision, variants, batch):
        """Time dense and pruned models in turns, whole and the tensor core alone."""
        images, rows = self.images(batch), {}
        dtype, tf32 = PRECISIONS[precision]
        parts = self._model(name, "parts")
        with _tf32(tf32), torch.no_grad():
            whole, core = {}, {}
            for variant in variants:
                try:
                    model, left = self._model(name, variant)
                except blendprune.errors.BlendpruneError as error:
                    rows[_label(variant)] = {"error": str(error)}
                    continue
                model = self._form(name, variant, form, dtype)
                mixed = dtype if form == "eager" else None
                run = _autocast(self.device, mixed, core_call)(model, parts, images)
                label = _label(variant)
                whole[label] = functools.partial(_autocast(self.device, mixed, model), images)
                core[label] = _autocast(self.device, mixed, run)
                rows[label] = {"flops": round(left, 4)}
            for kind, calls in (("whole", whole), ("core", core)):
                with torch.no_grad():
                    times = time_in_turns(calls, self.runs, warmup=3)
                for label, found in times.items():
                    rows[label][kind] = quartiles(found)
        return rows

    def _form(self, name, variant, form, dtype):
        """A model in one of the forms; those that were used last are kept."""
        model, _ = self._model(name, variant)
        if FORMS[form] is None:
            return model
        key = name, FORMS[form], dtype
        if self._models.get("forms", (None,))[0] != key:
            self._models["forms"] = key, {}
        kept = self._models["forms"][1]
        if variant not in kept:
            kept[variant] = blendprune.deploy(model, dtype=dtype, compile=FORMS[form])
        return kept[variant]

    def _model(self, name, variant):
        """A model and the fraction of FLOPs that is left, or the parts of the dense one."""
        key = name, variant
        if key not in self._models:
            image = self.images(1)
            if variant == "parts":
                self._models[key] = core_parts(self._model(name, "dense")[0], image)
            elif variant == "dense":
                model = dense_model(name, self.device, self.small)
                limit_candidates(model, image)
                self._models[key] = model, 1.0
            else:
                dense, _ = self._model(name, "dense")
                start = time.perf_counter()
                model, left = pruned_model(dense, image, *variant)
                print(f"pruned {name} to {variant}: {time.perf_counter() - start:.1f} s")
                limit_candidates(model, image)
                self._models[key] = model, left
        return self._models[key]

    def _prune(self, name):
        """Prune by ``obs`` with reconstruction: seconds, and memory at its peak."""
        data = [self.images(2) for _ in range(2)]
        model = dense_model(name, self.device, self.small)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        wait_for_device()
        start = time.perf_counter()
        report = blendprune.prune(model, self.images(1), max_flops=0.5, data=data)
        wait_for_device()
        found = {
            "seconds": round(time.perf_counter() - start, 1),
            "images": sum(map(len, data)),
            "flops": round(report.flops["after"] / report.flops["before"], 4),
        }
        if self.device == "cuda":
            found["peak GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        return found

    def _same_channels(self):
        """Whether a small model loses the same channels on this device and on the CPU."""
        found = {}
        for importance in ("magnitude", "taylor", "obs"):
            with _tf32(False):
                states = [self._pruned_small(importance, device) for device in ("cpu", self.device)]
            widths, weights = zip(*states)
            same = [
                a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-6)
                for a, b in zip(*(each.values() for each in weights))
            ]
            found[importance] = {
                "same widths": widths[0] == widths[1],
                "same channels": f"{sum(same)} of {len(same)} tensors",
            }
        return found

    def _pruned_small(self, importance, device):
        model = dense_model("blendmask", device, small=True)
        # Statistics of batch norms that the device computes may differ by rounding.
        model.load_state_dict(dense_model("blendmask", "cpu", small=True).state_dict())
        data = [images_of(128, 128, device, 2)]
        blendprune.prune(
            model,
            data[0][:1],
            max_flops=0.5,
            importance=importance,
            reconstruct=False,
            rounds=1,
            data=data,
        )
        weights = {name: p.detach().cpu() for name, p in model.named_parameters()}
        return structure_of(model)["modules"], weights


def _autocast(device, dtype, call):
    """A function under automatic mixed precision; itself without a dtype."""
    return call if dtype is None else torch.autocast(device, dtype)(call)


@contextlib.contextmanager
def _tf32(on):
    """Let cuBLAS and cuDNN round to TF32, or not, for a while."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = on
    try:
        yield
    finally:
        for backend, value in zip(backends, before):
            backend.allow_tf32 = value


def _label(variant):
    return variant if variant == "dense" else f"{1 / variant[0]:.0f}x, multiples of {variant[1]}"
