"""Models on another device than the CPU: CUDA where there is one, else a pretended device."""

import json

import pytest
import torch

from tests.helpers import pretended_device
from tests.helpers.on_device import FAMILIES

DEVICE = "cuda" if torch.cuda.is_available() else pretended_device.NAME
pytestmark = pytest.mark.skipif(
    DEVICE != "cuda" and not pretended_device.is_supported(),
    reason="this PyTorch lets no Python class be a device, and there is no CUDA",
)


def test_every_family_is_pruned_trained_saved_loaded_and_deployed_on_another_device(fresh_python):
    code = "import runpy; runpy.run_module('tests.helpers.on_device', run_name='__main__')"
    found = json.loads(fresh_python(code, DEVICE).stdout.splitlines()[-1])
    assert found == dict.fromkeys(FAMILIES, "green")


MIXTURES = {
    "a sum": "torch.ones(2, device=NAME) + torch.ones(2)",
    "a product": "torch.ones(2, 2).to(NAME) @ torch.ones(2, 2)",
    "a list": "torch.cat([torch.ones(2, device=NAME), torch.ones(2)])",
    "a generator": "torch.rand(2, device=NAME, generator=torch.Generator())",
}


@pytest.mark.skipif(DEVICE == "cuda", reason="CUDA refuses them itself")
def test_the_pretended_device_refuses_mixtures_and_computes_like_the_cpu(fresh_python):
    script = f"""
import json, torch
from tests.helpers.pretended_device import NAME, enable
enable()
found = {{}}
for name, code in {MIXTURES!r}.items():
    try:
        eval(code)
    except RuntimeError as error:
        found[name] = str(error)[:8]
x = torch.arange(6.0).view(2, 3)
y = x.to(NAME)
assert y.device.type == NAME and str((y * 2).device) == NAME + ":0"
assert torch.equal((y.t()[1:] * 2 + 1).cpu(), x.t()[1:] * 2 + 1)
y[0, [1, 2]] = torch.tensor(7.0)
assert y.tolist() == [[0, 7, 7], [3, 4, 5]] and float(y.sum()) == 26
assert torch.tensor([1, 2], device=NAME).device == y.device == y.new_tensor([1.0]).device
print(json.dumps(found))
"""
    found = json.loads(fresh_python(script).stdout.splitlines()[-1])
    assert found == dict.fromkeys(MIXTURES, "Expected")
