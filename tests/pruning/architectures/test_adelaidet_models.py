"""One small model of each family of AdelaiDet: pruned, run, trained, reloaded."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.helpers.small_adelaidet import FAMILIES, LIMITS

RECOGNISER, BASES = "roi_heads.recognizer.", "proposal_generator.basis_module."


@pytest.fixture(scope="module")
def found(adelaidet_root):
    """Family → what ``small_adelaidet.py`` says came of it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.helpers.small_adelaidet"],
        cwd=pathlib.Path(__file__).parents[3],
        env={**os.environ, "ADELAIDET_ROOT": adelaidet_root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_small_model_is_pruned_run_trained_and_reloaded(found, family):
    assert found[family]["result"] == "green"
    flops, params = found[family]["flops"], found[family]["params"]
    assert 0.98 * 0.5 <= flops["after"] / flops["before"] <= 0.5
    # BAText has most of its FLOPs where it has few parameters.
    assert params["after"] < 0.8 * params["before"]


def test_every_meta_architecture_is_among_them(found):
    assert {found[family]["meta architecture"] for family in FAMILIES} >= set(found["registered"])
    assert "CondInst" in found["registered"]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_predictions_recurrent_layers_and_unfolded_maps_stay(found, family):
    # With random weights, rounding alone decides what FCPose's attention gives, and on some
    # processors the last layers of FCOS's towers.
    notes = [
        note
        for note in found[family]["notes"]
        if not note.startswith(RECOGNISER) and "rounding alone changes what it gives" not in note
    ]
    known = {"fcpose": ["unknown operator Im2ColBackward0"]}.get(family, [])
    assert len(notes) == len(known)
    assert all(reason in note for reason, note in zip(known, notes))


def test_all_of_bifpn_is_one_group_without_its_weights_of_inputs(found):
    groups = found["boxinst-bifpn"]["groups"]
    [(stays, members)] = [g for root, g in groups.items() if root.startswith("backbone.repeated")]
    assert not stays
    assert not any("weights_f" in layer for layer in members)


def test_a_bifpn_as_wide_as_an_input_it_projects_is_refused(found):
    sentence = found["boxinst-bifpn"]["refusal"]
    assert sentence.startswith("BiFPN and one of its inputs came out at 96 channels both")
    assert sentence.endswith("ask for a slightly different target")


def test_what_only_training_runs_is_cut_along(found):
    for family, makes, reads in (
        ("condinst-sem", "backbone.fpn_output3", "mask_branch.seg_head.0.0"),
        ("fcpose", BASES + "seg_head.1.0", BASES + "upsampler.0"),
    ):
        groups = found[family]["groups"].values()
        [stays] = [stays for stays, members in groups if {makes, reads} <= set(members)]
        assert not stays
    # Inference ends there, though training reads it on.
    stays, _ = found["fcpose"]["groups"][BASES + "p3_logits"]
    assert stays == "prediction layer"
    assert found["condinst-sem"]["left as it was"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_deployed_model_predicts_the_same(found, family):
    # Random weights of deep models enlarge what rounding changes.
    assert found[family]["change by deploying"] < 1e-3


@pytest.mark.parametrize("family", LIMITS)
def test_last_layers_count_for_as_many_instances_as_the_config_keeps(found, family):
    one, two, five = found[family]["at limits"]
    assert five - one == 4 * (two - one) > 0
