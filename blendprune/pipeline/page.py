"""``report.html`` of a prune: its numbers, and test images through both models."""

import html
import logging
import os
import shlex

from ..errors import BlendpruneError, error_line
from ..pruning.tracing.hooks import evaluating
from ..report.images import compare_images, outputs_of
from ..report.page import prune_page
from .evaluation import first_images

_log = logging.getLogger(__name__)

_IMAGES = 3


def page_of_prune(reports, pictures, pruned, dense, folder, tune, imports=()):
    """Draw the page of a prune.

    Args:
        reports (dict[str, dict]): name → report; the last one is this prune's.
        pictures (Pictures): of the dense model.
        pruned (nn.Module): the model that the test images go through, too.
        dense (str): weights of the dense model.
        folder (str): where the files of the prune are going to be.
        tune (Callable): config → the command that fine-tunes by it.
        imports (Sequence[str]): as for :func:`next_commands`.

    Returns:
        str: HTML.
    """
    config, tuned = (
        os.path.join(folder, name) for name in ("config.yaml", "finetune/model_final.pth")
    )
    commands = [
        ("Fine-tune it with your own script:", tune(config)),
        *next_commands(dense, config, tuned, imports),
    ]
    comparisons = pictures.through(pruned)
    return drawn(prune_page, reports, comparisons, commands, pictures.missing)


def drawn(draw, *args):
    """Draw a page; results of long work must not be lost because their page cannot be drawn.

    Args:
        draw (Callable): of ``args``.

    Returns:
        str: HTML; one sentence, also in the log, if drawing fails for any reason.
    """
    try:
        return draw(*args)
    except Exception as error:  # of libraries that draw: many
        words = f"the page cannot be drawn ({error_line(error)}); the .json file beside it is whole"
        _log.warning(words)
        return f"<!doctype html><title>no page</title><p>{html.escape(words)}</p>"


class Pictures:
    """A few test images, read once, and what the dense model finds in them.

    Args:
        cfg (CfgNode): of the dense model; names the test set.
        dense (nn.Module): the model.
        data (list[list[dict]] | None): batches whose images serve if the test set cannot be read.

    Attributes:
        missing (str): why the last call of :meth:`through` gave none; else empty.
    """

    def __init__(self, cfg, dense, data=None):
        self._cfg, self._dense, self._data, self._found = cfg, dense, data, None
        self.missing = ""

    def through(self, pruned):
        """Draw what both models find.

        Args:
            pruned (nn.Module): the other model.

        Returns:
            Sequence[Comparison]: empty, with a line in the log, if this fails for any reason.
        """
        self.missing = ""
        try:
            if self._found is None:
                images = _images(self._cfg, self._data)
                with evaluating(self._dense):
                    self._found = images, outputs_of(self._dense, images)
            images, found = self._found
            with evaluating(pruned):
                return compare_images(self._cfg, images, found, outputs_of(pruned, images))
        except Exception as error:  # of loaders, models and drawing: many
            why = str(error) if isinstance(error, BlendpruneError) else error_line(error)
            self.missing = f"there are no pictures: {why}"
            _log.warning(f"the page: {self.missing}")
            return ()


def _images(cfg, data):
    try:
        return first_images(cfg, _IMAGES)
    except Exception:  # the test set may be on another machine
        if not data:
            raise
    return [image["image"] for batch in data for image in batch][:_IMAGES]


def next_commands(dense, config, tuned, imports=()):
    """What to do with a fine-tuned model.

    Args:
        dense (str): weights of the dense model.
        config (str): of the pruned one.
        tuned (str): its weights after the fine-tuning.
        imports (Sequence[str]): what registers its data sets; empty: the words ask for it.

    Returns:
        list[tuple[str, str]]: words, and a command.
    """
    ask = "" if imports else " Add --import MODULE if a module of yours registers data sets."
    config = ("--config-file", config, "--weights", tuned, "--output", "model.onnx")
    return [
        (f"Export it for onnxruntime and OpenVINO.{ask}", command_line("export", config, imports)),
        (f"Measure it in every form.{ask}", command_line("bench", (dense, tuned, "--ap"), imports)),
    ]


def tuning_command(config):
    """The command that fine-tunes by a config, where the script is not known."""
    return command_line("run", ("train_net.py", "--config-file", config))


def command_line(command, arguments, imports=()):
    """A command of blendprune, quoted for a shell.

    Args:
        command (str): its name.
        arguments (Sequence[str]): what follows.
        imports (Sequence[str]): values of its ``--import``.

    Returns:
        str: one line.
    """
    imports = [part for name in imports for part in ("--import", name)]
    return shlex.join(["blendprune", command, *arguments, *imports])
