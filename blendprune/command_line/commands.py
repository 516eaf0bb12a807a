"""What each command does with its arguments."""

import contextlib
import importlib.util
import json
import logging
import os
import runpy
import sys
import traceback
import warnings
from dataclasses import asdict

import blendprune

from ..config.imports import find, import_into
from ..config.messages import unknown_key
from ..errors import ConfigError
from .config import config_of


def demo(args):
    """Run the whole story on digit scenes."""
    _begin()
    from ..demo import story
    from ..report.table import report_table

    report = story.run(args.output, quiet=args.quiet or args.json)
    page = os.path.join(args.output, "report.html")
    return _print(args, report, lambda: f"{report_table(report)}\n\n{page}")


def plan(args):
    """Show what could be pruned of the model of a config."""
    _begin()
    from ..pipeline import plan_from_config
    from ..pruning import plan_table

    found = plan_from_config(config_of(args))
    return _print(args, found.to_dict(), lambda: plan_table(found))


def sensitivity(args):
    """Measure the sensitivity of the model of a config, group by group."""
    _begin()
    from ..pipeline import sensitivity_from_config
    from ..pruning import sensitivity_table

    cfg = config_of(args)
    path = cfg.PRUNER.SENSITIVITY = (
        args.output or cfg.PRUNER.SENSITIVITY or os.path.join(cfg.OUTPUT_DIR, "sensitivity.json")
    )
    found = sensitivity_from_config(cfg, mapper=_mapper(args))
    hint = f"prune with: --sensitivity {path}"
    return _print(args, asdict(found), lambda: f"{sensitivity_table(found)}\n\n{hint}")


def prune(args):
    """Prune the model of a config."""
    _begin()
    from ..pipeline import prune_from_config
    from ..report.table import report_table

    cfg = config_of(args)
    output = args.output or os.path.join(cfg.OUTPUT_DIR, "pruned")
    report = prune_from_config(cfg, output, mapper=_mapper(args), imports=args.imports)
    return _print(
        args, report, lambda: f"{report_table(report)}\n\n{_next_steps(output, args.imports)}"
    )


def _next_steps(output, imports):
    from ..pipeline.page import command_line, tuning_command

    weights, config, page = (
        os.path.join(output, name) for name in ("model_pruned.pth", "config.yaml", "report.html")
    )
    return (
        f"look at it:     {page}\n"
        f"AP now:         {command_line('eval', ('--weights', weights), imports)}\n"
        f"fine-tune with: {tuning_command(config)}"
    )


def export(args):
    """Export a trained model as ONNX."""
    _begin()
    from ..deployment.export import exported_table
    from ..pipeline import export_checkpoint, export_from_config

    if args.config_file:
        cfg = config_of(args)
        found = export_from_config(cfg, args.output, args.int8, _mapper(args))
    else:
        _refuse_without_config(args)
        _import_modules(args)
        found = export_checkpoint(args.weights, args.output, args.int8, _mapper(args))
    return _print(args, found.to_dict(), lambda: exported_table(found))


def _refuse_without_config(args):
    if not args.weights:
        what = "there is no model to export"
    elif args.opts:
        what = "KEY VALUE pairs change a config"
    else:
        return
    raise ConfigError(f"{what}: give --config-file, or --weights alone with a pruned checkpoint")


def evaluate(args):
    """Evaluate a checkpoint or an exported file."""
    _begin()
    from ..pipeline.evaluate_file import evaluate_file, evaluation_table

    cfg = config_of(args) if args.config_file else None
    if cfg is None:
        _import_modules(args)
    found = evaluate_file(args.weights, cfg, args.opts, args.engine)
    return _print(args, found, lambda: evaluation_table(found))


def bench(args):
    """Time models in the forms that they are shipped in."""
    _begin()
    from ..deployment.bench import bench_table
    from ..pipeline.bench import bench_files

    _import_modules(args)
    found = bench_files(
        args.models,
        forms=args.form,
        batch_sizes=args.batch or [1],
        size=args.size,
        runs=args.runs,
        threads=args.threads,
        network=args.network,
        with_ap=args.ap,
        output=args.output,
    )
    return _print(args, found, lambda: bench_table(found))


def report(args):
    """Write a page about trained models."""
    _begin()
    from ..pipeline.report import report_files
    from ..report.page import summary

    _import_modules(args)
    found = report_files(args.models, args.output, args.ap)
    lines = [f"{name}: {summary(each)}" for name, each in found.items()]
    return _print(args, found, lambda: "\n".join([*lines, args.output]))


def info(args):
    """Say what a checkpoint or an exported file is, and how it is used."""
    _begin()
    from ..pipeline.info import describe_file, info_table

    _import_modules(args)
    found = describe_file(args.file)
    return _print(args, found, lambda: info_table(found))


def run(args):
    """Run a script as ``python SCRIPT ARGS`` or ``python -m MODULE ARGS``, under the overlay."""
    if args.module:
        return _run_module(args.module, args.args)
    if not args.script:
        raise ConfigError(
            "`blendprune run` needs a script: give a train_net.py, or -m and a module."
        )
    if not os.path.isfile(args.script):
        raise ConfigError(f"there is no script {args.script!r}: give the path of a train_net.py.")
    blendprune.apply()
    sys.argv = [args.script, *args.args]
    sys.path[0] = os.path.dirname(os.path.abspath(args.script))
    with _naming_unknown_keys():
        runpy.run_path(args.script, run_name="__main__")
    return 0


def _run_module(name, args):
    sys.path[0] = os.getcwd()
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # of a package around it
        found = None
    if found is None:
        raise ConfigError(
            f"there is no module {name!r}: give one of the working directory or of PYTHONPATH."
        )
    blendprune.apply()
    sys.argv = [name, *args]  # runpy puts the module's path there
    with _naming_unknown_keys():
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    return 0


@contextlib.contextmanager
def _naming_unknown_keys():
    """Add a sentence to a traceback of the script's: yacs names no key like it."""
    try:
        yield
    except (AssertionError, KeyError) as error:
        from detectron2.config import get_cfg

        if not (words := unknown_key(error, get_cfg())):
            raise
        traceback.print_exc()
        raise ConfigError(f"{words}: correct it, or add it in the script") from None


def doctor(args):
    """Say what is installed here, and what is missing."""
    _hide_warnings()
    from ..pipeline.doctor import doctor_table, examine

    found = examine(_patches())
    _print(args, found, lambda: doctor_table(found))
    return int("drifted" in found["patches"])


def status(args):
    """Show the state of each patch."""
    _hide_warnings()
    from tabulate import tabulate

    rows = _patches()
    table = [(r.name, r.target, r.upstream, " ".join((r.state, r.detail))) for r in rows]
    headers, widths = ("patch", "target", "upstream", "state"), (None, 50, None, 50)
    _print(
        args,
        [vars(row) for row in rows],
        lambda: tabulate(table, headers=headers, maxcolwidths=widths),
    )
    return int(any(row.state == "drifted" for row in rows))


def _patches():
    """Import every patched module; returns the state of each patch."""
    from ..overlay import import_targets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blendprune.apply(on_drift="warn")
        import_targets()
    return blendprune.status()


def convert(args):
    """Rewrite a checkpoint of another tool, or of a hand-patched fork, in the safe form."""
    left_out = blendprune.convert(args.input, args.output, allow_pickle=args.allow_pickle)
    for what in left_out:
        print(f"left out: {what}", file=sys.stderr)
    return _print(args, {"file": args.output, "left_out": left_out}, lambda: args.output)


def _print(args, found, text):
    """Print a result as JSON or as text; returns the exit code."""
    print(json.dumps(found, indent=2) if args.json else text())
    return 0


def _mapper(args):
    """The ``--mapper``; after the modules of ``--import``, which may register what it needs."""
    return find(args.mapper) if args.mapper else None


def _import_modules(args):
    """Register what files may name: our own models, and the user's modules."""
    from detectron2.config import get_cfg

    from .. import modeling

    modeling.register()
    import_into(get_cfg(), args.imports)


def _begin():
    _hide_warnings()
    blendprune.apply()


def _hide_warnings():
    """Hide warnings that upstream writes for its own developers."""
    for module in ("torch", "detectron2", "adet"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
    for name in ("torch.fx", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("fvcore").setLevel(logging.WARNING)
