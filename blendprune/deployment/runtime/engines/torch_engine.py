"""PyTorch itself, without a file."""

import torch


class TorchEngine:
    """Runs a core of a model in PyTorch.

    Args:
        core (Core): from ``cores_of``.
    """

    def __init__(self, core):
        self._core = core

    def run(self, arrays):
        """Run the core on the device of its weights.

        Args:
            arrays (dict[str, np.ndarray]): one for each input.

        Returns:
            dict[str, np.ndarray]: one for each output.
        """
        weights = next(self._core.module.parameters(), torch.empty(0))
        with torch.no_grad():
            found = self._core({k: torch.from_numpy(x).to(weights) for k, x in arrays.items()})
        return {name: x.cpu().numpy() for name, x in found.items()}
