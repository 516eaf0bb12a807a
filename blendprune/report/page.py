"""The report of a pruning run as one HTML file, for people."""

from dataclasses import dataclass

from ..deployment.bench.table import bench_facts, bench_rows
from ..pruning.cost.memory import MEMORY_WORDS
from ..pruning.search.rounding import rounding_words
from . import charts
from .latency import clock_words, fastest_form, latencies_of, latency_words
from .reference import reference_words
from .table import METRICS

_STAGE_SHARE, _MOST_STAGES, _SMALL = 0.25, 14, 0.03


@dataclass
class Comparison:
    """The same image through the dense and the pruned model.

    Attributes:
        dense (str), pruned (str): ``data:`` addresses of pictures.
        words (str): what differs.
    """

    dense: str
    pruned: str
    words: str


def prune_page(reports, comparisons=(), commands=(), no_pictures="", joined=True):
    """Draw one self-contained page: no network, no other file.

    Args:
        reports (dict[str, dict]): name → what ``report.json`` holds, of the same dense model; the
            last one is shown in full, and all of them as curves.
        comparisons (Sequence[Comparison]): images.
        commands (Sequence[tuple[str, str]]): what to do next: words, and a command.
        no_pictures (str): why there are no comparisons, and what to do.
        joined (bool): whether the reports differ in their target alone, so that a line may join
            them in the curves.

    Returns:
        str: HTML.
    """
    name, report = list(reports.items())[-1]
    return _fill(
        "prune.html",
        title=name,
        summary=summary(report),
        facts=facts(report),
        charts=_charts(reports, report, joined),
        stages=_names(report) or ["dense", "pruned"],
        layers=report.get("layers", {}),
        notes=report.get("notes", ()),
        comparisons=comparisons,
        no_pictures=no_pictures,
        commands=commands,
        models=_models(reports) if len(reports) > 1 else (),
    )


def bench_page(found):
    """Draw a bench as a page.

    Args:
        found (dict): from :func:`blendprune.bench`.

    Returns:
        str: HTML.
    """
    timed = [row for row in found["rows"] if "ms" in row]
    models = list(dict.fromkeys(row["model"] for row in timed))
    latency, points = {}, {model: [] for model in models}
    for row in sorted(timed, key=lambda row: row["batch"]):
        images = f", {row['batch']} images" if row["batch"] > 1 else ""
        cells = latency.setdefault(row["form"] + images, [None] * len(models))
        cells[models.index(row["model"])] = row["ms"]
        ap = next(iter((row.get("ap") or {}).values()), None)
        if ap is not None and not images:
            points[row["model"]].append((f"{row['model']}, {row['form']}", row["ms"], ap))
    points = {model: each for model, each in points.items() if each}
    drawn = {"latency": charts.bars("latency", latency, models, " ms")} if latency else {}
    if points:
        drawn["ap"] = charts.curve("ap", points, "ms", " ms")
    return _fill(
        "bench.html",
        title=" and ".join(models) or "bench",
        charts=drawn,
        models=models,
        facts=bench_facts(found),
        table=bench_rows(found, "html"),
    )


def _fill(template, *, charts, **values):
    """A template of this folder, filled in."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("blendprune", "report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, loader=loader,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    drawn = {key: Markup(svg) for key, svg in charts.items()}
    return environment.get_template(template).render(charts=drawn, **values)


def summary(report):
    """One sentence: what is left, and at which AP.

    Args:
        report (dict): as ``report.json`` holds it.

    Returns:
        str: plain text.
    """
    flops, params = (_kept(report, key) for key in ("flops", "params"))
    words = f"{flops:.0%} of the FLOPs and {params:.0%} of the parameters are left"
    fastest = fastest_form(report)
    if fastest is not None:
        form, kept = fastest
        words += f"; a call takes {kept:.0%} of the time ({form})"
    for task in _tasks(report):
        first, *_, last = _scores(report, task)
        if None not in (first, last):
            words += f"; {METRICS.get(task, task)} {first:.1f} → {last:.1f}"
    return f"{words}."


def facts(report):
    """What a reader has to know about the numbers.

    Args:
        report (dict): as ``report.json`` holds it.

    Returns:
        list[str]: sentences or parts of them.
    """
    found = ["one multiply-add is one FLOP; counted up to the raw head outputs"]
    if report.get("relative_to"):
        found.append(f"compared with {reference_words(report['relative_to'])}")
    if report.get("round_to"):
        found.append(f"widths: {rounding_words(report['round_to'])}")
    if report.get("memory_mb"):
        found.append(MEMORY_WORDS)
    if "threads" in report:
        found.append(f"latency: {clock_words(report)}")
    if "wall_s" in report:
        found.append(f"this took {report['wall_s'] / 60:.1f} minutes")
    if words := latency_words(report):
        found.append(words)
    if "finetuned" in report.get("ap", {}):
        found.append("the fine-tuned model has trained longer than the dense one")
    return found


def _charts(reports, report, joined):
    found, both = {}, ("before", "after")
    sizes = {"FLOPs": "flops", "parameters": "params", "activations": "activations"}
    rows = {
        label: [100.0, 100 * _kept(report, key)] for label, key in sizes.items() if report.get(key)
    }
    if report.get("memory_mb"):
        rows["memory"] = [100.0, 100 * _ratio(report["memory_mb"])]
    found["size"] = charts.bars("size", rows, ("dense", "pruned"), " %")
    latencies = latencies_of(report)
    if latencies:
        rows = {form: [values[key] for key in both] for form, values in latencies.items()}
        found["latency"] = charts.bars("latency", rows, ("dense", "pruned"), " ms")
    rows = {METRICS.get(task, task): _scores(report, task) for task in _tasks(report)}
    if rows:
        found["ap"] = charts.bars("ap", rows, _names(report))
    if report.get("layers"):
        found["widths"] = charts.widths("widths", report["layers"])
    if report.get("flops_by_module"):
        rows = flops_by_stage(report["flops_by_module"])
        found["stages"] = charts.bars("stages", rows, ("dense", "pruned"), " G", 10)
    return found | _curves(reports, report, joined)


def _models(reports):
    """Rows of all models, a heading first: size, latency in the fastest form, and scores."""
    tasks = list(dict.fromkeys(task for report in reports.values() for task in _tasks(report)))
    rows = [["model", "FLOPs", "parameters", "latency", *(METRICS.get(t, t) for t in tasks)]]
    for name, report in reports.items():
        row = [name, *(f"{_kept(report, key):.1%}" for key in ("flops", "params"))]
        fastest = fastest_form(report)
        row.append(f"{fastest[1]:.1%} ({fastest[0]})" if fastest else "")
        for task in tasks:
            first, *_, last = _scores(report, task) or [None, None]
            row.append("" if None in (first, last) else f"{first:.1f} → {last:.1f}")
        rows.append(row)
    return rows


def _curves(reports, report, joined):
    task = next(iter(_tasks(report)), None)
    costs = {
        "curve-flops": ("GFLOPs", " G", lambda each, key: each["flops"][key] / 1e9),
        "curve-latency": ("ms", " ms", _fastest),
    }
    found = {}
    for name, (label, unit, cost) in costs.items():
        dense, pruned = [], []
        for words, each in reports.items():
            ap = _scores(each, task)
            if not ap or None in (ap[0], ap[-1], cost(each, "after")):
                continue
            dense = [("dense", cost(each, "before"), ap[0])]
            pruned.append((words, cost(each, "after"), ap[-1]))
        if len(pruned) > 1:
            series, metric = {"dense": dense, "pruned": pruned}, METRICS.get(task, task)
            found[name] = charts.curve(name, series, label, unit, metric, joined)
    return found


def flops_by_stage(flops):
    """Sum FLOPs to a few stages.

    A module with much of them is shown by its children, those with little of them as one.

    Args:
        flops (dict[str, dict[str, int]]): module → own FLOPs ``"before"`` and ``"after"``.

    Returns:
        dict[str, list[float]]: stage → GFLOPs before and after, in the network's order.
    """
    total = sum(each["before"] for each in flops.values())
    depth = dict.fromkeys(flops, 1)

    def stage(name):
        return ".".join(name.split(".")[: depth[name]])

    while True:
        sums = {}
        for name, each in flops.items():
            sums.setdefault(stage(name), []).append((name, each["before"]))
        wide = [
            [name for name, _ in members]
            for key, members in sums.items()
            if sum(x for _, x in members) > _STAGE_SHARE * total
            and any(name.count(".") >= depth[name] for name, _ in members)
        ]
        if not wide or len(sums) >= _MOST_STAGES:
            break
        for name in wide[0]:
            depth[name] += 1
    found = {}
    for name, each in flops.items():
        row = found.setdefault(stage(name) or "the model itself", [0.0, 0.0])
        for i, key in enumerate(("before", "after")):
            row[i] += each[key] / 1e9
    small = [name for name, row in found.items() if row[0] < _SMALL * total / 1e9]
    if len(small) > 1:
        rest = [found.pop(name) for name in small]
        found["others"] = [sum(each) for each in zip(*rest)]
    return found


def _kept(report, key):
    return _ratio(report[key])


def _ratio(values):
    return values["after"] / values["before"]


def _fastest(report, key):
    return min((values[key] for values in latencies_of(report).values()), default=None)


def _names(report):
    """How people call the stages."""
    return [stage.replace("finetuned", "fine-tuned") for stage in _stages(report)]


def _stages(report):
    return [stage for stage in ("dense", "pruned", "finetuned") if report.get("ap", {}).get(stage)]


def _scores(report, task):
    """AP in a task, one for each stage; None where it was not measured."""
    return [report["ap"][stage].get(task) for stage in _stages(report)]


def _tasks(report):
    return list(dict.fromkeys(task for each in report.get("ap", {}).values() for task in each))
