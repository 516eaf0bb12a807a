"""What a quantization learns its ranges from."""

import numpy as np

from blendprune.deployment.export.inputs import Recorder


class Echo:
    """An engine that gives what it gets."""

    def run(self, arrays):
        return arrays


def recorded(*regions):
    found = []
    recorder = Recorder(Echo(), found)
    for each in regions:
        given = recorder.run({"regions": each})
        assert given["regions"] is each
    return [x["regions"] for x in found]


def test_of_many_regions_some_are_kept_spread_over_all():
    regions = np.arange(1, 101, dtype=np.float32)[:, None]
    few, some = recorded(regions[:3], regions)
    assert few.tolist() == regions[:3].tolist()
    assert some.tolist() == regions[::7].tolist()


def test_images_without_a_detection_say_nothing_of_the_regions():
    # For want of others, a decoder runs one of zeros.
    found = recorded(np.zeros((1, 4), np.float32), np.zeros((0, 4), np.float32), np.eye(4))
    assert len(found) == 1 and found[0].shape == (4, 4)
