"""The command line: ``blendprune demo | plan | prune | export | run | …``; see `_parser`."""

import argparse
import importlib.util
import json
import logging
import os
import runpy
import sys
import warnings

import blendprune

from .checks import similar
from .config.imports import find, import_into
from .config.messages import explained
from .config.target import ABSOLUTE, TARGETS, Target
from .errors import BlendpruneError, ConfigError
from .progress import Progress, TerminalProgress

# Flags of single commands that are keys of the PRUNER node, too.
_FLAGS = ("importance", "normalize", "runtime", "sensitivity")


def main(argv=None):
    """Run one command.

    Returns:
        int: 0; 1 when ``status`` found drift; 2 after a sentence on stderr that says what is wrong.
    """
    try:
        args = _parse(argv)
        return args.command(args)
    except BlendpruneError as error:
        print(f"blendprune: {error}", file=sys.stderr)
        return 2


def demo(args):
    """Run the whole story on digit scenes."""
    _silence_upstream()
    blendprune.apply()
    from .demo import story
    from .report.table import report_table

    report = story.run(args.output)
    print(report_table(report))
    print(f"\n{os.path.join(args.output, 'report.html')}")
    return 0


def plan(args):
    """Show what could be pruned of the model of a config."""
    _silence_upstream()
    blendprune.apply()
    from .pipeline import plan_from_config
    from .pruning import plan_table

    found = plan_from_config(_config(args))
    print(json.dumps(found.to_dict(), indent=2) if args.json else plan_table(found))
    return 0


def sensitivity(args):
    """Measure the sensitivity of the model of a config, group by group."""
    _silence_upstream()
    blendprune.apply()
    from .pipeline import sensitivity_from_config
    from .pruning import sensitivity_table

    cfg = _config(args)
    path = cfg.PRUNER.SENSITIVITY = (
        args.output or cfg.PRUNER.SENSITIVITY or os.path.join(cfg.OUTPUT_DIR, "sensitivity.json")
    )
    mapper = find(args.mapper) if args.mapper else None
    found = sensitivity_from_config(cfg, progress=TerminalProgress(), mapper=mapper)
    print(sensitivity_table(found))
    print(f"\nprune with: --sensitivity {path}")
    return 0


def prune(args):
    """Prune the model of a config."""
    _silence_upstream()
    blendprune.apply()
    from .pipeline import prune_from_config
    from .report.table import report_table

    cfg = _config(args)
    output = args.output or os.path.join(cfg.OUTPUT_DIR, "pruned")
    mapper = find(args.mapper) if args.mapper else None
    report = prune_from_config(cfg, output, progress=TerminalProgress(), mapper=mapper)
    print(report_table(report))
    print(f"\nfine-tune with: --config-file {os.path.join(output, 'config.yaml')}")
    print(f"to look at: {os.path.join(output, 'report.html')}")
    return 0


def export(args):
    """Export a trained model as ONNX."""
    _silence_upstream()
    blendprune.apply()
    from detectron2.config import get_cfg

    from . import modeling
    from .deployment.export import exported_table
    from .pipeline import export_checkpoint, export_from_config

    progress = Progress() if args.json else TerminalProgress()
    if args.config_file:
        cfg = _config(args)
        mapper = find(args.mapper) if args.mapper else None
        found = export_from_config(cfg, args.output, args.int8, mapper, progress)
    else:
        _refuse_without_config(args)
        modeling.register()
        import_into(get_cfg(), args.imports)
        found = export_checkpoint(args.weights, args.output, progress)
    print(json.dumps(found.to_dict(), indent=2) if args.json else exported_table(found))
    return 0


def _refuse_without_config(args):
    if not args.weights:
        what = "there is no model to export"
    elif args.int8:
        what = "int8 is calibrated on the training images of a config"
    elif args.opts:
        what = "KEY VALUE pairs change a config"
    else:
        return
    raise ConfigError(f"{what}: give --config-file, or --weights alone with a pruned checkpoint")


def bench(args):
    """Time models in the forms that they are shipped in."""
    _silence_upstream()
    blendprune.apply()
    from detectron2.config import get_cfg

    from . import modeling
    from .deployment.bench import bench_table
    from .pipeline.bench import bench_files

    modeling.register()
    import_into(get_cfg(), args.imports)
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
        progress=Progress() if args.json else TerminalProgress(),
    )
    print(json.dumps(found, indent=2) if args.json else bench_table(found))
    return 0


def report(args):
    """Write a page about trained models."""
    _silence_upstream()
    blendprune.apply()
    from detectron2.config import get_cfg

    from . import modeling
    from .pipeline.report import report_files
    from .report.page import summary

    modeling.register()
    import_into(get_cfg(), args.imports)
    progress = Progress() if args.json else TerminalProgress()
    found = report_files(args.models, args.output, args.ap, progress)
    lines = [f"{name}: {summary(each)}" for name, each in found.items()]
    print(json.dumps(found, indent=2) if args.json else "\n".join([*lines, args.output]))
    return 0


def info(args):
    """Say what a checkpoint or an exported file is, and how it is used."""
    _silence_upstream()
    blendprune.apply()
    from detectron2.config import get_cfg

    from . import modeling
    from .pipeline.info import describe_file, info_table

    modeling.register()
    import_into(get_cfg(), args.imports)
    found = describe_file(args.file)
    print(json.dumps(found, indent=2) if args.json else info_table(found))
    return 0


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
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    return 0


def status(args):
    """Import every patched module and show the state of each patch."""
    from tabulate import tabulate

    from .overlay import import_targets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blendprune.apply(on_drift="warn")
        import_targets()
    rows = blendprune.status()
    if args.json:
        print(json.dumps([vars(row) for row in rows], indent=2))
    else:
        table = [(r.name, r.target, r.upstream, " ".join((r.state, r.detail))) for r in rows]
        print(tabulate(table, headers=("patch", "target", "upstream", "state")))
    return int(any(row.state == "drifted" for row in rows))


def convert(args):
    """Rewrite a checkpoint of another tool, or of a hand-patched fork, in the safe form."""
    left_out = blendprune.convert(args.input, args.output, allow_pickle=args.allow_pickle)
    for what in left_out:
        print(f"left out: {what}", file=sys.stderr)
    print(args.output)
    return 0


def _silence_upstream():
    """Hide warnings that upstream writes for its own developers."""
    for module in ("torch", "detectron2", "adet"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
    logging.getLogger("torch.fx").setLevel(logging.ERROR)
    logging.getLogger("fvcore").setLevel(logging.WARNING)


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong with the arguments, instead of a page of usage."""

    def error(self, message):
        raise ConfigError(f"{message}: see `{self.prog} --help`")


def _parse(argv):
    """Parse the arguments; a name that is not known gets those like it.

    Raises:
        ConfigError: they are wrong.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    # What follows the script is its own, options included.
    end = len(argv) if argv[:1] != ["run"] else 3 if argv[1:2] == ["-m"] else 2
    argv, rest = argv[:end], argv[end:]
    parser = _parser()
    commands = next(a.choices for a in parser._actions if isinstance(a.choices, dict))
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        names = ", ".join(commands)
        raise ConfigError(
            f"there is no command {argv[0]!r}{similar(argv[0], commands)}: use one of {names}"
        )
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        command = commands[argv[0]]
        near = similar(unknown[0], command._option_string_actions)
        command.error(f"`{command.prog}` takes no {unknown[0]!r}{near}")
    args.args = rest
    return args


def _number(text):
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number, write a fraction such as 0.5"
        ) from None


def _count(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _multiple(text):
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no whole number, write 16, or auto"
        ) from None


def _parser():
    parser = _Parser(prog="blendprune", description=blendprune.__doc__)
    version = f"blendprune {blendprune.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sub = commands.add_parser("demo", help="train, prune, fine-tune, evaluate; offline, 2 cores")
    sub.add_argument("--output", default="output/demo", metavar="DIR")
    sub.set_defaults(command=demo)

    sub = commands.add_parser("plan", help="show what could be pruned, what stays, and why")
    _add_config_argument(sub)
    _add_layer_arguments(sub)
    sub.add_argument("--json", action="store_true")
    _add_tail(sub)
    sub.set_defaults(command=plan)

    sub = commands.add_parser("sensitivity", help="measure the rise of the loss, group by group")
    _add_config_argument(sub)
    _add_mapper_argument(sub)
    sub.add_argument("--importance", metavar="NAME", help="which channels go first")
    sub.add_argument("--output", metavar="FILE", help="default: OUTPUT_DIR/sensitivity.json")
    _add_tail(sub)
    sub.set_defaults(command=sensitivity)

    sub = commands.add_parser("prune", help="prune the trained model of a config")
    _add_config_argument(sub)
    _add_mapper_argument(sub)
    _add_layer_arguments(sub)
    targets = sub.add_mutually_exclusive_group()
    for kind, unit in TARGETS.items():
        what = "channels to remove" if kind == "pruning_ratio" else f"{unit} to keep"
        flag = f"--{kind.replace('_', '-')}"
        absolute = f", or {ABSOLUTE[kind][1]} from 1 on" if kind in ABSOLUTE else ""
        what = f"fraction of the {what}{absolute}"
        targets.add_argument(flag, type=_number, metavar="X", help=what)
    sub.add_argument(
        "--level",
        action="append",
        type=_number,
        metavar="X",
        help="a target of the same kind on the way, saved in DIR/X; repeatable",
    )
    sub.add_argument(
        "--runtime", metavar="NAME", help="the form that --max-latency is of: eager, deployed, …"
    )
    sub.add_argument("--importance", metavar="NAME", help="obs, taylor, fisher, magnitude, …")
    sub.add_argument("--normalize", metavar="UNIT", help="flops, params or activations")
    sub.add_argument("--sensitivity", metavar="FILE", help="measurement to use, or to make")
    sub.add_argument("--output", metavar="DIR", help="default: OUTPUT_DIR/pruned")
    _add_tail(sub)
    sub.set_defaults(command=prune)

    sub = commands.add_parser("export", help="write a trained model as ONNX, checked")
    _add_config_argument(sub, required=False)
    sub.add_argument("--weights", metavar="FILE", help="as MODEL.WEIGHTS; alone: a checkpoint")
    sub.add_argument("--output", required=True, metavar="FILE.onnx")
    sub.add_argument("--int8", action="store_true", help="quantize, on training images")
    _add_mapper_argument(sub)
    sub.add_argument("--json", action="store_true")
    _add_tail(sub)
    sub.set_defaults(command=export)

    sub = commands.add_parser("bench", help="time models in every form that they are shipped in")
    sub.add_argument("models", nargs="+", metavar="MODEL", help="checkpoint or config; dense first")
    _add_import_argument(sub)
    sub.add_argument(
        "--form",
        action="append",
        metavar="NAME",
        help="eager, deployed, compiled, onnxruntime, openvino-int8, …; repeatable",
    )
    sub.add_argument("--batch", action="append", type=_count, metavar="N", help="images a call")
    sub.add_argument("--size", nargs=2, type=_count, metavar=("HEIGHT", "WIDTH"), help="in pixels")
    sub.add_argument("--runs", type=_count, default=20, metavar="N", help="timed calls of each")
    sub.add_argument("--threads", type=_count, metavar="N", help="of PyTorch and the engines")
    sub.add_argument("--network", action="store_true", help="time the network alone, too")
    sub.add_argument("--ap", action="store_true", help="evaluate each form on DATASETS.TEST")
    output = "for bench.json, bench.html and, with --ap, bench.png"
    sub.add_argument("--output", metavar="DIR", help=output)
    sub.add_argument("--json", action="store_true")
    sub.set_defaults(command=bench)

    sub = commands.add_parser("report", help="write a page that compares trained models")
    sub.add_argument("models", nargs="+", metavar="MODEL", help="checkpoint or config; dense first")
    _add_import_argument(sub)
    sub.add_argument("--ap", action="store_true", help="evaluate each on DATASETS.TEST")
    sub.add_argument("--output", default="report.html", metavar="FILE.html")
    sub.add_argument("--json", action="store_true")
    sub.set_defaults(command=report)

    sub = commands.add_parser("info", help="say what a checkpoint or an exported file is")
    sub.add_argument("file", metavar="FILE", help="checkpoint, or .onnx")
    _add_import_argument(sub)
    sub.add_argument("--json", action="store_true")
    sub.set_defaults(command=info)

    sub = commands.add_parser("run", help="run an unmodified training script under the overlay")
    sub.add_argument("-m", dest="module", metavar="MODULE", help="a module instead of a script")
    sub.add_argument("script", nargs="?", metavar="SCRIPT", help="its arguments follow")
    sub.set_defaults(command=run)

    sub = commands.add_parser("status", help="list the patches; exit code 1 on drift")
    sub.add_argument("--json", action="store_true")
    sub.set_defaults(command=status)

    sub = commands.add_parser("convert", help="rewrite a checkpoint of another tool or fork")
    sub.add_argument("--allow-pickle", action="store_true", help="you trust the file")
    sub.add_argument("input", metavar="INPUT")
    sub.add_argument("output", metavar="OUTPUT")
    sub.set_defaults(command=convert)
    return parser


def _add_config_argument(sub, required=True):
    sub.add_argument("--config-file", required=required, metavar="FILE")
    _add_import_argument(sub)


def _add_import_argument(sub):
    sub.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE[:FUNCTION]",
        help="import it first; the function is called with the config; repeatable",
    )


def _add_mapper_argument(sub):
    sub.add_argument(
        "--mapper",
        metavar="MODULE:NAME",
        help="dataset mapper of the training, called as NAME(cfg, True)",
    )


def _add_layer_arguments(sub):
    sub.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="layers that keep their width, by name or glob; repeatable",
    )
    sub.add_argument(
        "--layer-ratio",
        action="append",
        default=[],
        nargs=2,
        metavar=("PATTERN", "X"),
        help="fraction of the channels to remove there; repeatable, the last one counts",
    )
    sub.add_argument(
        "--round-to",
        type=_multiple,
        metavar="N",
        help="widths become multiples of N; 1: any; auto (default): what the device runs well",
    )


def _add_tail(sub):
    sub.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")


def _config(args):
    """Merge the config file, the flags, and the KEY VALUE tail, which wins."""
    from detectron2.config import get_cfg

    from . import modeling

    modeling.register()
    cfg = get_cfg()
    import_into(cfg, args.imports)
    flags = {name: getattr(args, name, None) for name in (*TARGETS, *_FLAGS)}
    flags = {name: value for name, value in flags.items() if value is not None}
    for kind in TARGETS.keys() & flags.keys():
        Target(kind, flags[kind])
    ratios = [[pattern, _ratio(pattern, x)] for pattern, x in getattr(args, "layer_ratio", ())]
    with explained(f"the config file {args.config_file!r}", cfg):
        cfg.merge_from_file(args.config_file)
    with explained("the flags", cfg):
        for name, value in flags.items():
            cfg.merge_from_list([f"PRUNER.{name.upper()}", value])
    if getattr(args, "round_to", None) is not None:
        cfg.PRUNER.ROUND_TO = args.round_to
    cfg.PRUNER.LEVELS = getattr(args, "level", None) or cfg.PRUNER.LEVELS
    # Layers of the command line are added behind those of the file.
    cfg.PRUNER.IGNORED_LAYERS = [*cfg.PRUNER.IGNORED_LAYERS, *getattr(args, "ignore", ())]
    cfg.PRUNER.PRUNING_RATIO_DICT = [*cfg.PRUNER.PRUNING_RATIO_DICT, *ratios]
    if getattr(args, "weights", None) is not None:
        cfg.MODEL.WEIGHTS = args.weights
    if "PRUNER.ROUND_TO" in args.opts[::2]:
        # yacs lets no word replace a number, but either may replace None.
        cfg.PRUNER.ROUND_TO = None
    with explained("the KEY VALUE pairs", cfg):
        cfg.merge_from_list(args.opts)
    return cfg


def _ratio(pattern, text):
    try:
        return _number(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--layer-ratio {pattern!r}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
