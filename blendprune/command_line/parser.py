"""The commands, their flags, and examples."""

import argparse
import sys

import blendprune

from ..checks import similar
from ..config.target import ABSOLUTE, TARGETS
from ..errors import ConfigError
from . import commands
from .completion import complete
from .numbers import count, multiple, number

GROUPS = {
    "try it": ("demo",),
    "prune": ("plan", "sensitivity", "prune"),
    "train with your own script": ("run",),
    "look at what came out": ("info", "eval", "bench", "report"),
    "ship it": ("export", "convert"),
    "when something is wrong": ("doctor", "status"),
}
_HELP = {
    "demo": "train, prune, fine-tune and evaluate on digit scenes; offline",
    "plan": "show what could be pruned, what stays, and why",
    "sensitivity": "measure the rise of the loss, group by group",
    "prune": "prune the trained model of a config",
    "run": "run an unmodified training script under the overlay",
    "info": "say what a checkpoint or an exported file is",
    "eval": "measure the AP of a checkpoint or an exported file",
    "bench": "time models in every form that they are shipped in",
    "report": "write a page that compares trained models",
    "export": "write a trained model as ONNX, checked",
    "convert": "rewrite a checkpoint of another tool or fork",
    "doctor": "say what is installed and what is missing here",
    "status": "list the patches; exit code 1 on drift",
}
EXAMPLES = {
    "demo": ["demo --output output/demo"],
    "plan": ["plan --config-file C.yaml", "plan --config-file C.yaml --ignore 'backbone.*'"],
    "sensitivity": ["sensitivity --config-file C.yaml MODEL.WEIGHTS model_final.pth"],
    "prune": [
        "prune --config-file C.yaml --max-flops 0.5 MODEL.WEIGHTS model_final.pth",
        "prune --config-file C.yaml --max-flops 0.33 --level 0.67 --level 0.5 --output pruned",
        "prune --config-file C.yaml --max-latency 0.5 --runtime onnxruntime",
    ],
    "run": [
        "run train_net.py --config-file pruned/config.yaml",
        "run train_net.py --config-file C.yaml MODEL.PRUNE True PRUNER.MAX_FLOPS 0.5",
    ],
    "info": ["info pruned/model_pruned.pth", "info model.onnx"],
    "eval": [
        "eval --weights pruned/finetune/model_final.pth",
        "eval --config-file pruned/config.yaml --weights model.onnx --engine openvino",
    ],
    "bench": [
        "bench dense.pth pruned.pth --ap --output bench",
        "bench dense.pth pruned.pth --form onnxruntime --form openvino-int8 --threads 1",
    ],
    "report": ["report dense.pth pruned.pth --ap --output report.html"],
    "export": [
        "export --weights pruned/finetune/model_final.pth --output model.onnx",
        "export --config-file pruned/config.yaml --output model.onnx --int8",
    ],
    "convert": ["convert --allow-pickle old.pth new.pth"],
    "doctor": ["doctor"],
    "status": ["status"],
}


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong with the arguments, instead of a page of usage."""

    def error(self, message):
        raise ConfigError(f"{message}: see `{self.prog} --help`")


def parse(argv=None):
    """Parse the arguments; a name that is not known gets those like it.

    Args:
        argv (Sequence[str]): None: those of the process.

    Returns:
        Namespace: ``command`` is the function to call with it.

    Raises:
        ConfigError: they are wrong.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    # What follows the script is its own, options included.
    end = len(argv) if argv[:1] != ["run"] else 3 if argv[1:2] == ["-m"] else 2
    argv, rest = argv[:end], argv[end:]
    parser = make_parser()
    complete(parser)
    names = next(a.choices for a in parser._actions if isinstance(a.choices, dict))
    if argv and not argv[0].startswith("-") and argv[0] not in names:
        raise ConfigError(
            f"there is no command {argv[0]!r}{similar(argv[0], names)}: use one of "
            f"{', '.join(names)}"
        )
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        command = names[argv[0]]
        near = similar(unknown[0], command._option_string_actions)
        command.error(f"`{command.prog}` takes no {unknown[0]!r}{near}")
    args.args = rest
    return args


def make_parser():
    """The parser of all commands (ArgumentParser)."""
    listed = "\n\n".join(
        f"{task}:\n" + "\n".join(f"  {name:12} {_HELP[name]}" for name in names)
        for task, names in GROUPS.items()
    )
    parser = _Parser(
        prog="blendprune",
        usage="blendprune COMMAND …",
        description=blendprune.__doc__.strip().splitlines()[0],
        epilog=f"{listed}\n\nblendprune COMMAND --help shows flags and examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"blendprune {blendprune.__version__}"
    parser.add_argument("--version", action="version", version=version)
    subs = parser.add_subparsers(required=True, metavar="COMMAND", help=argparse.SUPPRESS)

    sub = _add(subs, "demo", commands.demo)
    sub.set_defaults(go_on="the demo begins anew when it is started again")
    sub.add_argument("--output", default="output/demo", metavar="DIR", help="for all files")

    sub = _add(subs, "plan", commands.plan)
    _add_config_argument(sub)
    _add_layer_arguments(sub)
    _add_tail(sub)

    sub = _add(subs, "sensitivity", commands.sensitivity)
    _add_config_argument(sub)
    _add_mapper_argument(sub)
    _add_images_argument(sub)
    sub.add_argument("--importance", metavar="NAME", help="which channels go first")
    sub.add_argument("--output", metavar="FILE", help="default: OUTPUT_DIR/sensitivity.json")
    _add_tail(sub)

    _add_prune(_add(subs, "prune", commands.prune))

    sub = _add(subs, "run", commands.run)
    go_on = "a pruning goes on with the same command, a training with --resume"
    sub.set_defaults(waits_passively=False, go_on=go_on)
    sub.add_argument("-m", dest="module", metavar="MODULE", help="a module instead of a script")
    sub.add_argument("script", nargs="?", metavar="SCRIPT", help="its arguments follow")

    sub = _add(subs, "info", commands.info)
    sub.add_argument("file", metavar="FILE", help="checkpoint, or .onnx")
    _add_import_argument(sub)

    sub = _add(subs, "eval", commands.evaluate)
    _add_config_argument(sub, required=False)
    sub.add_argument("--weights", metavar="FILE", help="checkpoint, or .onnx; alone: a checkpoint")
    sub.add_argument("--engine", default="onnxruntime", metavar="NAME",
                     help="of an exported file: onnxruntime, openvino")  # fmt: skip
    _add_tail(sub)

    sub = _add(subs, "bench", commands.bench)
    sub.set_defaults(waits_passively=False)  # as what users ship
    _add_models(sub)
    sub.add_argument(
        "--form",
        action="append",
        metavar="NAME",
        help="eager, deployed, compiled, onnxruntime, openvino-int8, …; repeatable",
    )
    sub.add_argument("--batch", action="append", type=count, metavar="N", help="images a call")
    sub.add_argument("--size", nargs=2, type=count, metavar=("HEIGHT", "WIDTH"), help="in pixels")
    sub.add_argument("--runs", type=count, default=20, metavar="N", help="timed calls of each")
    sub.add_argument("--threads", type=count, metavar="N", help="of PyTorch and the engines")
    sub.add_argument("--network", action="store_true",
                     help="time the network alone, too: no preparation, no decoding")  # fmt: skip
    sub.add_argument("--ap", action="store_true", help="evaluate each form on DATASETS.TEST")
    output = "for bench.json, bench.html and, with --ap, bench.png"
    sub.add_argument("--output", metavar="DIR", help=output)

    sub = _add(subs, "report", commands.report)
    _add_models(sub)
    sub.add_argument("--ap", action="store_true", help="evaluate each on DATASETS.TEST")
    sub.add_argument("--output", default="report.html", metavar="FILE.html", help="the page")

    sub = _add(subs, "export", commands.export)
    _add_config_argument(sub, required=False)
    sub.add_argument("--weights", metavar="FILE", help="as MODEL.WEIGHTS; alone: a checkpoint")
    sub.add_argument("--output", required=True, metavar="FILE.onnx", help="the file to write")
    sub.add_argument("--int8", action="store_true", help="quantize, on training images")
    _add_mapper_argument(sub)
    _add_tail(sub)

    sub = _add(subs, "convert", commands.convert)
    sub.add_argument("--allow-pickle", action="store_true", help="you trust the file")
    sub.add_argument("input", metavar="INPUT", help="any checkpoint")
    sub.add_argument("output", metavar="OUTPUT", help="the file to write")

    _add(subs, "doctor", commands.doctor)
    _add(subs, "status", commands.status)
    return parser


def _add(subs, name, command):
    sub = subs.add_parser(
        name,
        prog=f"blendprune {name}",
        description=f"{_HELP[name][0].upper()}{_HELP[name][1:]}.",
        epilog="\n".join(["examples:", *(f"  blendprune {line}" for line in EXAMPLES[name])]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.set_defaults(command=command)
    if name != "run":  # a script prints what it likes
        group = sub.add_argument_group("what it prints")
        group.add_argument("--quiet", action="store_true", help="the result, but no progress")
        group.add_argument("--json", action="store_true", help="the result alone, as JSON")
    return sub


def _add_images_argument(sub):
    what = "pictures without labels, instead of DATASETS.TRAIN"
    sub.add_argument("--images", dest="image_folder", metavar="DIR", help=what)


def _add_prune(sub):
    _add_config_argument(sub)
    _add_mapper_argument(sub)
    _add_images_argument(sub)
    _add_layer_arguments(sub)
    targets = sub.add_mutually_exclusive_group()
    for kind, unit in TARGETS.items():
        what = "channels to remove" if kind == "pruning_ratio" else f"{unit} to keep"
        flag = f"--{kind.replace('_', '-')}"
        absolute = f", or {ABSOLUTE[kind][1]} from 1 on" if kind in ABSOLUTE else ""
        what = f"fraction of the {what}{absolute}"
        targets.add_argument(flag, type=number, metavar="X", help=what)
    sub.add_argument(
        "--level",
        action="append",
        type=number,
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


def _add_models(sub):
    sub.add_argument("models", nargs="+", metavar="MODEL", help="checkpoint or config; dense first")
    _add_import_argument(sub)


def _add_config_argument(sub, required=True):
    sub.add_argument(
        "--config-file", required=required, metavar="FILE", help="config of the model, YAML"
    )
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
        type=multiple,
        metavar="N",
        help="widths become multiples of N; 1: any; auto (default): what the device runs well",
    )


def _add_tail(sub):
    sub.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
