"""The patch set as text, applied to copies of upstream, against the overlay on the originals."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from blendprune import overlay
from blendprune.overlay._patch import importable

REPO = Path(__file__).parents[2]
PATCHES = REPO / "patches"
PROBE = Path(__file__).with_name("probe.py")


def _series():
    lines = (PATCHES / "series").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _without_text():
    """Names in the README's table of patches that have no text, each with a reason."""
    return re.findall(r"^\| `([\w-]+)` \| \w.+ \|$", (PATCHES / "README.md").read_text(), re.M)


def _target(patch):
    return re.search(r"^\+\+\+ b/(\S+)", (PATCHES / patch).read_text(), re.M)[1]


def test_every_patch_of_the_overlay_has_a_text_or_a_reason():
    texts = [Path(name).stem for name in _series()]
    assert sorted(texts + _without_text()) == sorted({patch.name for patch in overlay.PATCHES})


def test_no_file_in_patches_is_unused():
    found = {str(p.relative_to(PATCHES)) for p in PATCHES.rglob("*") if p.is_file()}
    assert found == {"series", "README.md", *_series()}


@pytest.mark.parametrize("name", _series())
def test_a_patch_changes_the_file_that_its_twin_in_the_overlay_changes(name):
    (module,) = {
        patch.module
        for patch in overlay.PATCHES
        if patch.name == Path(name).stem and not patch.module.startswith("blendprune.")
    }
    assert _target(name) == module.replace(".", "/") + ".py"


@pytest.mark.parametrize("name", _series())
def test_a_patch_explains_itself_and_quotes_one_line_of_context(name):
    header, _, diff = (PATCHES / name).read_text().partition("\n--- a/")
    title, blank, *why = header.splitlines()
    assert title and not blank and " ".join(why).count("Reaches") == 1
    assert max(map(len, header.splitlines())) <= 80
    for hunk in re.split(r"^@@.*\n", diff, flags=re.M)[1:]:
        # Two lines in a row are the ends of neighbouring changes.
        assert not re.search(r"(^ .*\n){3}|\A(^ .*\n){2}|(^ .*\n){2}\Z", hunk, re.M)
    added = "\n".join(line[1:] for line in diff.splitlines() if line.startswith("+"))
    assert "blendprune.overlay" not in added and "apply(" not in added


def _apply(names, folder):
    """Apply patches with git; any fuzz, offset or reject fails."""
    for name in names:
        done = subprocess.run(
            ["git", "apply", "--verbose", "--whitespace=error-all", str(PATCHES / name)],
            cwd=folder,
            # Inside some other repository, git would look for the files there.
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(Path(folder).parent)},
            capture_output=True,
            text=True,
        )
        target = _target(name)
        assert done.returncode == 0, done.stderr
        # Lines in front of a hunk may have come or gone; what it changes is the same, exactly.
        said = [line for line in done.stderr.splitlines() if "(offset" not in line]
        assert said == [f"Checking patch {target}...", f"Applied patch {target} cleanly."]


def _copy(package, folder):
    skip = shutil.ignore_patterns("*.so", "configs", "projects")
    shutil.copytree(package, folder / package.name, ignore=skip, symlinks=True)


def _probe(fresh_python, form, family, folder, path):
    """Run probe.py with ``path`` first on sys.path; return what it found."""
    folder.mkdir()
    code = f"import runpy; runpy.run_path({str(PROBE)!r}, run_name='__main__')"
    fresh_python(code, form, family, cwd=folder, path=path)
    return torch.load(folder / "results.pth", weights_only=True)


@pytest.fixture(scope="module", params=["own", "adet"])
def folders(request, fresh_python, tmp_path_factory):
    """The folders in which the probe ran under text and under overlay, and what it found."""
    import detectron2

    family = request.param
    if family == "own" and importable("adet"):
        pytest.skip("AdelaiDet is importable, so blendprune's BlendMask is not in use")
    root = request.getfixturevalue("adelaidet_root") if family == "adet" else None
    here = tmp_path_factory.mktemp(family)
    upstream = here / "upstream"
    upstream.mkdir()
    _copy(Path(detectron2.__file__).parent, upstream)
    if root:
        _copy(Path(root, "adet"), upstream)
    _apply([n for n in _series() if n.startswith("detectron2/") or root], upstream)
    text = _probe(fresh_python, "text", family, here / "text", [upstream])
    ours = _probe(fresh_python, "overlay", family, here / "overlay", [root] if root else [])
    assert not text["origin"]["applied"] and ours["origin"]["applied"]
    assert all(Path(file).is_relative_to(upstream) for file in text["origin"]["files"])
    assert not any(Path(file).is_relative_to(upstream) for file in ours["origin"]["files"])
    return here / "text", here / "overlay", text, ours


@pytest.fixture
def both(folders):
    return folders[2:]


@pytest.fixture
def both_adet(folders):
    if "prune mode" not in folders[2]:
        pytest.skip("the text of BlendMask's patches is against AdelaiDet's files alone")
    return folders[2:]


def _assert_same(text, ours, where=""):
    assert type(text) is type(ours), where
    if isinstance(text, torch.Tensor):
        assert torch.equal(text, ours), where
    elif isinstance(text, dict):
        assert list(text) == list(ours), where
        for key in text:
            _assert_same(text[key], ours[key], f"{where}/{key}")
    elif isinstance(text, (list, tuple)):
        assert len(text) == len(ours), where
        for i, pair in enumerate(zip(text, ours)):
            _assert_same(*pair, f"{where}/{i}")
    else:
        assert text == ours, where


def _assert_loaded(found):
    """The model built under FINETUNE and loaded is the model that was cut and saved."""
    _assert_same({key: found[key] for key in found["cut"]}, found["cut"])
    assert len(found["outputs"][0]["scores"]) > 0


def test_config_defaults_are_the_overlays(both):
    text, ours = both
    assert text["config"] == ours["config"]
    assert "FINETUNE: false" in text["config"] and "PRUNER:" in text["config"]


def test_blocks_of_every_norm_are_the_overlays_and_survive_script_trace_pickle_copy(both):
    text, ours = both
    _assert_same(text["blocks"], ours["blocks"])
    assert all(all(block["twins"]) for block in text["blocks"].values())
    children = ["shortcut", "norm3", "conv1", "norm1", "conv2", "norm2"]
    assert text["blocks"]["BN", 2]["children"] == children


def test_a_dense_blendmask_has_the_overlays_names_outputs_losses_and_gradients(both):
    text, ours = both
    _assert_same(text["dense"], ours["dense"])
    assert len(text["dense"]["outputs"][0]["scores"]) > 0
    assert "backbone.bottom_up.res2.0.conv1.norm.weight" in text["dense"]["keys"]
    assert "backbone.bottom_up.res2.0.norm1.weight" in text["dense"]["parameters"]


@pytest.mark.parametrize("name", ["dense", "pruned", "finetuned", "retinanet", "headless"])
def test_saved_files_are_the_overlays(folders, name):
    if not (folders[0] / f"{name}.pth").exists() and name == "headless":
        pytest.skip("the text of BlendMask's patches is against AdelaiDet's files alone")
    text, ours = (torch.load(f / f"{name}.pth", weights_only=True) for f in folders[:2])
    _assert_same(text, ours)
    assert set(text) >= {"model", "struct"}
    assert text["model"]._metadata == ours["model"]._metadata


def test_finetuning_a_pruned_file_gives_the_overlays_model(both):
    text, ours = both
    _assert_same(text["pruned"], ours["pruned"])
    assert text["pruned"]["channels"] == 64
    assert text["pruned"]["resumed"] == text["pruned"]["cut"]["weights"]
    _assert_loaded(text["pruned"])


def test_finetuning_reaches_other_architectures(both):
    text, ours = both
    _assert_same(text["other"], ours["other"])
    _assert_loaded(text["other"])


def test_the_config_switches_on_the_overlays_training_hooks(both):
    text, ours = both
    assert text["hooks"] == ours["hooks"]
    without, with_sparsity = text["hooks"]
    expected = ["ExactResume", "GroupSparsity", *without]
    assert with_sparsity == expected and "LRScheduler" in without


def test_names_of_hand_patched_forks_load(both):
    text, ours = both
    assert text["fork"]["renamed"] > 0
    _assert_same(text["fork"], ours["fork"])
    assert text["fork"]["weights"] != text["dense"]["weights"]


def test_what_is_refused_is_refused_in_the_same_words(both):
    text, ours = both
    assert text["errors"] == ours["errors"]
    assert {kind for kind, _ in text["errors"].values()} == {
        "ConfigError",
        "CheckpointError",
        "StructError",
        "UnsafeStructError",
    }


def test_prune_mode_gives_the_overlays_raw_outputs(both_adet):
    text, ours = both_adet
    _assert_same(text["prune mode"], ours["prune mode"])
    assert text["prune mode"]["differentiable"] and text["prune mode"]["flags"] == [True, True]


def test_the_basis_loss_follows_the_config_under_finetune(both_adet):
    text, ours = both_adet
    _assert_same(text["basis loss"], ours["basis loss"])
    assert text["basis loss"]["loss_on"] is False and text["basis loss"]["has head"]
    assert text["basis loss"]["refusal"][0] == "StructError"
