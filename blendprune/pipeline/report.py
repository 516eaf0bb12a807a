"""A page about trained models in files: sizes, latency, AP, and images through them."""

import os

import torch

from ..errors import ConfigError
from ..files import explained_write, make_writable, staged
from ..progress import Progress
from ..pruning.cost.count import count_costs, flops_by_module, total_costs
from ..pruning.graph.inputs import config_inputs
from ..pruning.search.rounds import layer_widths
from ..report.page import write_page
from .bench import config_in, read_models
from .evaluation import check_test_sets, evaluate
from .latencies import form_latencies
from .page import compare_test_images

_FORMS = ("eager", "deployed")


def report_files(paths, output, with_ap=False, progress=None):
    """Compare trained models and write a page about them.

    Args:
        paths (Sequence[str]): as for :func:`.bench.bench_files`, the dense model first.
        output (str): the ``.html`` file.
        with_ap (bool): evaluate all of them on DATASETS.TEST of the first one.
        progress (Progress): hears of the stages.

    Returns:
        dict[str, dict]: name of each model but the first → what it has of the keys of
        ``report.json``.

    Raises:
        ConfigError: there is one model only, they are of different architectures, or their test
            sets cannot be read.
        CheckpointError: a file cannot be read, or the page cannot be written.
    """
    progress = progress or Progress()
    if len(paths) < 2:
        raise ConfigError("a report compares models: give the dense one first, then pruned ones")
    make_writable(os.path.dirname(os.path.abspath(output)))
    models = read_models(paths, progress)
    (_, dense), *pruned = models.items()
    cfg = config_in(dense)
    if with_ap:
        check_test_sets(cfg)
    reports = {name: sizes(dense, model) for name, model in pruned}
    scores = {}
    for name, model in models.items() if with_ap else ():
        progress.stage(f"evaluating {name}")
        scores[name] = evaluate(cfg, model)
    for name, model in pruned:
        progress.stage(f"timing {name}")
        pair = {"before": dense, "after": model}
        latencies, notes = form_latencies(pair, config_inputs(dense), _FORMS)
        reports[name] |= {"latency_ms_by_form": latencies, "notes": notes}
        if with_ap:
            reports[name]["ap"] = {"dense": next(iter(scores.values())), "pruned": scores[name]}
    comparisons = compare_test_images(cfg, (dense, pruned[-1][1]))
    with explained_write(output), staged(output) as [at]:
        write_page(at, reports, comparisons)
    return reports


def sizes(dense, model):
    """What pruning has changed of a model.

    Args:
        dense (nn.Module), model (nn.Module): with their config, before and after.

    Returns:
        dict: the keys of ``report.json`` that need neither training nor data.

    Raises:
        ConfigError: the models are of different architectures.
    """
    inputs = config_inputs(dense)
    counts = [count_costs(each, inputs) for each in (dense, model)]
    totals = [total_costs(each, count) for each, count in zip((dense, model), counts)]
    before, after = layer_widths(dense), layer_widths(model)
    if before.keys() != after.keys():
        raise ConfigError(
            f"{type(dense).__name__} and {type(model).__name__} do not have the same layers: "
            "compare models of one architecture"
        )
    return {
        **{key: {"before": totals[0][key], "after": totals[1][key]} for key in totals[0]},
        "layers": {name: {"before": before[name], "after": after[name]} for name in before},
        "flops_by_module": flops_by_module(*(count.flops for count in counts)),
        "threads": torch.get_num_threads(),
        "device": str(next(dense.parameters()).device),
    }
