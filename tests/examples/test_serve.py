"""The HTTP server of the examples."""

import importlib.util
import io

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from tests.examples.conftest import EXAMPLES

for package in ("fastapi", "httpx", "python_multipart"):
    pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture
def client(blendmask, monkeypatch):
    from fastapi.testclient import TestClient

    monkeypatch.setenv("MODEL", str(blendmask.folder / "model.onnx"))
    monkeypatch.setenv("MIN_SCORE", "0")
    spec = importlib.util.spec_from_file_location("serve", EXAMPLES / "serve.py")
    server = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(server)
    return TestClient(server.app)


def test_a_picture_goes_in_and_instances_come_out(client, blendmask):
    found = client.post("/instances", files={"picture": blendmask.picture.read_bytes()})
    assert found.status_code == 200 and found.json()
    for each in found.json():
        assert each.keys() == {"class", "score", "box", "mask"}
        assert mask_utils.decode(each["mask"]).shape == (64, 64) and len(each["box"]) == 4


def test_a_picture_goes_in_and_a_drawing_comes_out(client, blendmask):
    found = client.post("/drawing", files={"picture": blendmask.picture.read_bytes()})
    assert found.headers["content-type"] == "image/png"
    drawing = np.asarray(Image.open(io.BytesIO(found.content)))
    assert drawing.shape == (64, 64, 3)
    assert (drawing != np.asarray(Image.open(blendmask.picture).convert("RGB"))).any()


def test_what_is_no_picture_is_refused(client):
    found = client.post("/instances", files={"picture": b"no picture"})
    assert found.status_code == 415 and "no picture" in found.json()["detail"]
