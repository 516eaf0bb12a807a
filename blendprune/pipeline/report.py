"""A page about trained models in files: sizes, latency, AP, and images through them."""

import os

import torch

from ..errors import ConfigError
from ..files import explained_write, make_writable, staged
from ..progress import stage
from ..pruning.cost.count import count_costs, flops_by_module, total_costs
from ..pruning.graph.inputs import config_inputs
from ..pruning.search.rounds import layer_widths
from ..report.page import prune_page
from .bench import config_in, read_models
from .evaluation import check_test_sets, evaluate
from .latencies import form_latencies, timing_inputs
from .page import Pictures

_FORMS = ("eager", "deployed")


def report_files(paths, output, with_ap=False):
    """Compare trained models and write a page about them.

    Args:
        paths (Sequence[str]): as for :func:`.bench.bench_files`, the dense model first.
        output (str): the ``.html`` file.
        with_ap (bool): evaluate all of them on DATASETS.TEST of the first one.

    Returns:
        dict[str, dict]: name of each model but the first → what it has of the keys of
        ``report.json``.

    Raises:
        ConfigError: there is one model only, they are of different architectures, or their test
            sets cannot be read.
        CheckpointError: a file cannot be read, or the page cannot be written.
    """
    if len(paths) < 2:
        raise ConfigError("a report compares models: give the dense one first, then pruned ones")
    make_writable(os.path.dirname(os.path.abspath(output)))
    models = read_models(paths)
    (_, dense), *pruned = models.items()
    cfg = config_in(dense)
    if with_ap:
        check_test_sets(cfg)
    inputs = config_inputs(dense)
    counts = count_costs(dense, inputs)
    before = _described(dense, counts)
    timed, words = timing_inputs(cfg, dense)
    reports = {
        name: _sizes(before, _described(model, count_costs(model, inputs)))
        for name, model in pruned
    }
    scores = {}
    for name, model in models.items() if with_ap else ():
        stage(f"evaluating {name}")
        scores[name] = evaluate(cfg, model)
    for name, model in pruned:
        stage(f"timing {name}")
        pair = {"before": dense, "after": model}
        latencies, notes = form_latencies(pair, timed, _FORMS)
        reports[name] |= {
            "latency_ms_by_form": latencies,
            "timed_on": words,
            "threads": torch.get_num_threads(),
            "device": str(next(dense.parameters()).device),
            "notes": [*notes, *counts.region_notes()],
        }
        if with_ap:
            reports[name]["ap"] = {"dense": next(iter(scores.values())), "pruned": scores[name]}
    pictures = Pictures(cfg, dense)
    comparisons = pictures.through(pruned[-1][1])
    page = prune_page(reports, comparisons, no_pictures=pictures.missing, joined=False)
    with explained_write(output), staged(output) as [at], open(at, "w", encoding="utf-8") as file:
        file.write(page)
    return reports


def _described(model, counts):
    return type(model).__name__, total_costs(model, counts), counts.flops, layer_widths(model)


def _sizes(before, after):
    """The keys of ``report.json`` that need neither training nor data, from two counts."""
    (dense, totals, flops, widths), (pruned, new_totals, new_flops, new_widths) = before, after
    if widths.keys() != new_widths.keys():
        raise ConfigError(
            f"{dense} and {pruned} do not have the same layers: compare models of one architecture"
        )
    return {
        **_pairs(totals, new_totals),
        "layers": _pairs(widths, new_widths),
        "flops_by_module": flops_by_module(flops, new_flops),
    }


def _pairs(before, after):
    return {key: {"before": before[key], "after": after[key]} for key in before}
