"""What is compared: pruning methods, FLOPs, and recipes for the fine-tuning."""

from dataclasses import dataclass

#: FLOPs to keep, as fractions.
LEVELS = (0.6667, 0.5, 0.3333, 0.25)
#: Levels at which models are fine-tuned or trained from scratch.
TUNED = (0.5, 0.25)
#: Iterations of the fine-tuning, as a fraction of the dense training's.
SCHEDULE = 0.2
# The same ratio for every group, of any width.
_UNIFORM = {"GLOBAL_PRUNING": False, "ROUNDS": 1, "ROUND_TO": 1}
#: Pruning methods, as keys of the PRUNER node. Torch-Pruning's default is its ``MagnitudePruner``:
#: the L2 norm of the coupled weights, the same ratio for every group, one step.
METHODS = {
    "blendprune": {},
    "free widths": {"ROUND_TO": 1},
    "multiples of 16": {"ROUND_TO": 16},
    "multiples of 32": {"ROUND_TO": 32},
    "torch-pruning": {"IMPORTANCE": "magnitude", **_UNIFORM},
    "random": {"IMPORTANCE": "random", **_UNIFORM},
    "by sensitivity": {"SENSITIVITY": "sensitivity.json"},
    "no reconstruction": {"RECONSTRUCT": False, "ROUNDS": 5},
    "taylor": {"IMPORTANCE": "taylor", "RECONSTRUCT": False, "ROUNDS": 5},
}


@dataclass(frozen=True)
class Recipe:
    """How models are fine-tuned.

    Attributes:
        suffix (str): ends the names of its steps.
        folder (str): for its checkpoints, within the folder of the pruned model.
        methods (tuple[str, ...]): what is fine-tuned with it, names of :data:`METHODS`.
        schedule (float): iterations, as a fraction of the dense training's.
        distill (bool): whether the dense model is the teacher.
        trained_on (str): name of the step that trains the dense model on by as many iterations.
    """

    suffix: str
    folder: str
    methods: tuple
    schedule: float = SCHEDULE
    distill: bool = False
    trained_on: str = "dense, trained on"

    @classmethod
    def of_length(cls, percent):
        """The default recipe for another length, in percent of the dense training's."""
        length = f" for {percent} %"
        return cls(
            suffix=f", fine-tuned{length}",
            folder=f"finetune_{percent}_percent",
            methods=("blendprune",),
            schedule=percent / 100,
            trained_on=f"dense, trained on{length}",
        )


_OURS = ("blendprune", "free widths", "multiples of 16", "multiples of 32")
_CONTROLS = ("torch-pruning", "random")
#: Recipes for the fine-tuning.
RECIPES = {
    "alone": Recipe(
        ", fine-tuned without a teacher", "finetune_alone", methods=(*_OURS, *_CONTROLS)
    ),
    "distilled": Recipe(
        ", fine-tuned", "finetune", methods=("blendprune", *_CONTROLS), distill=True
    ),
    "5%": Recipe.of_length(5),
    "50%": Recipe.of_length(50),
    "100%": Recipe.of_length(100),
}
#: Those that run where none is named.
USUAL = ("alone", "distilled")
