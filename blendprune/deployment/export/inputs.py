"""What the cores of an exported model see when it detects."""

from ..runtime import Detector
from ..runtime.engines import ENGINES
from ..runtime.file import read_file

# Of one image: neighbours among the regions look alike.
_REGIONS = 16


def core_inputs(path, images):
    """Detect, and record what goes into each core.

    Args:
        path (str): of an exported file.
        images (list[dict]): in detectron2's format.

    Returns:
        dict[str, list[dict[str, np.ndarray]]]: core → inputs, in the order of the images; of many
        regions some, spread over all. Inputs without a region are left out.
    """
    metadata, paths = read_file(path)
    found = {name: [] for name in metadata.cores}
    engines = {
        name: Recorder(ENGINES["onnxruntime"](paths[name], core), found[name])
        for name, core in metadata.cores.items()
    }
    detector = Detector(metadata.family, metadata.settings, engines)
    for image in images:
        detector([image])
    return found


class Recorder:
    """An engine that keeps what another one is given.

    Args:
        engine (object): that runs.
        found (list): takes the inputs.
    """

    def __init__(self, engine, found):
        self._engine, self._found = engine, found

    def run(self, arrays):
        count = min(len(x) for x in arrays.values())
        # Where nothing is detected, a decoder runs a region of zeros for want of others.
        if count and any(x.any() for x in arrays.values()):
            step = -(-count // _REGIONS)
            self._found.append({name: x[::step].copy() for name, x in arrays.items()})
        return self._engine.run(arrays)
