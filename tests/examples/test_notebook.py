"""The notebook runs from top to bottom, and its stored outputs are those of a whole run."""

import json

from tests.examples.conftest import EXAMPLES

NOTEBOOK = EXAMPLES / "prune_a_model.ipynb"
# As small as runs.
QUICK = """
ITERATIONS, SCENES, FOLDER = 2, 32, "notebook"
OPTS = '''
    MODEL.RESNETS.OUT_FEATURES ["res2","res3"] MODEL.FPN.IN_FEATURES ["res2","res3"]
    MODEL.FPN.OUT_CHANNELS 64 MODEL.FCOS.IN_FEATURES ["p2","p3"] MODEL.FCOS.FPN_STRIDES [4,8]
    MODEL.BASIS_MODULE.IN_FEATURES ["p2","p3"] MODEL.FCOS.NUM_CLS_CONVS 1 MODEL.FCOS.NUM_BOX_CONVS 1
    INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2
    PRUNER.CALIBRATION_IMAGES 4
'''.split()
"""


def cells(kind):
    found = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def test_the_notebook_runs_from_top_to_bottom(shell, tmp_path):
    sources = ["import matplotlib; matplotlib.use('Agg')"]
    for cell in cells("code"):
        parameters = "parameters" in cell["metadata"].get("tags", ())
        sources.append(QUICK if parameters else "".join(cell["source"]))
    program = tmp_path / "notebook.py"
    program.write_text("\n\n".join(sources))
    said = shell("sh", "-c", f"cd {tmp_path} && python notebook.py")
    assert "AP of the pruned model" in said and "\nTrue\n" in said
    assert (tmp_path / "notebook/model.onnx").stat().st_size


def test_the_stored_outputs_have_pictures_and_no_errors():
    outputs = [output for cell in cells("code") for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
    assert NOTEBOOK.stat().st_size < 500_000
    counts = [cell["execution_count"] for cell in cells("code")]
    assert counts == list(range(1, len(counts) + 1))
