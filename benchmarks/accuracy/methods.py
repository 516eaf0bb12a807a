"""What is compared: pruning methods, FLOPs, and recipes for the fine-tuning."""

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
#: Recipes for the fine-tuning → suffix of the steps that use it.
RECIPES = {"alone": ", fine-tuned without a teacher", "distilled": ", fine-tuned"}
#: Recipes → methods that are fine-tuned with it.
TUNED_METHODS = {
    "alone": (
        *("blendprune", "free widths", "multiples of 16", "multiples of 32"),
        *("torch-pruning", "random"),
    ),
    "distilled": ("blendprune", "torch-pruning", "random"),
}
