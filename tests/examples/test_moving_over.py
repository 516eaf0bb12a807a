"""Models that come from elsewhere: a LazyConfig, a hand-patched fork's file."""

import pickle

import pytest
import torch

import blendprune
from blendprune.errors import UnsafeStructError

# A ViT of two layers, and heads to match.
SMALL_VIT = """
    train.device=cpu train.max_iter=2 dataloader.train.total_batch_size=2
    dataloader.train.num_workers=0 dataloader.test.num_workers=0
    model.backbone.net.embed_dim=32 model.backbone.net.depth=2 model.backbone.net.num_heads=4
    model.backbone.net.img_size=64 model.backbone.square_pad=64
    model.backbone.net.window_block_indexes=[0] model.backbone.net.window_size=2
    model.proposal_generator.post_nms_topk=[50,20] model.roi_heads.box_head.conv_dims=[16]
    model.roi_heads.box_head.fc_dims=[32] model.roi_heads.box_predictor.input_shape.channels=32
    model.roi_heads.mask_head.conv_dims=[16,16]
    dataloader.train.mapper.augmentations.0.short_edge_length=[64]
    dataloader.train.mapper.augmentations.0.max_size=64
    dataloader.test.mapper.augmentations.0.short_edge_length=64
    dataloader.test.mapper.augmentations.0.max_size=64
""".split()


@pytest.mark.slow
def test_the_model_of_a_lazyconfig_is_trained_pruned_and_fine_tuned(shell, tmp_path):
    def run(*args, start="", output):
        folder = tmp_path / output
        ends = (f"train.init_checkpoint={start}", f"train.output_dir={folder}")
        config = ("--config-file", "configs/own_vitdet.py")
        shell("python", "lazy_train_net.py", *args, *config, *SMALL_VIT, *ends)
        return folder

    dense = run("train", output="dense") / "model_final.pth"
    flags = ("--max-flops", 0.7, "--batches", 1)
    pruned = run("prune", *flags, start=dense, output="pruned") / "model_pruned.pth"
    tuned = run("finetune", start=pruned, output="finetune") / "model_final.pth"
    contents = [torch.load(path, weights_only=True) for path in (dense, pruned, tuned)]
    sizes = [sum(x.numel() for x in content["model"].values()) for content in contents]
    assert sizes[0] > 1.1 * sizes[1] and sizes[1] == sizes[2]
    assert contents[2]["iteration"] == 1


@pytest.fixture
def fork_file(blendmask, tmp_path, overlay):
    """A checkpoint as a hand-patched fork saves it: ``"struct"`` is the module itself."""
    model = blendprune.load(str(blendmask.folder / "pruned/model_pruned.pth"))
    path = tmp_path / "fork.pth"
    torch.save({"model": model.state_dict(), "struct": model, "iteration": 9}, path)
    with pytest.raises(UnsafeStructError):
        blendprune.load(str(path))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    return path, sum(p.numel() for p in model.parameters())


def test_a_forks_file_is_moved_over(shell, blendmask, fork_file, tmp_path):
    path, size = fork_file
    config, output = blendmask.folder / "dense/config.yaml", tmp_path / "moved"
    said = shell("sh", "from_fork.sh", path, config, output)
    assert "pruned" in said
    model = blendprune.load(str(output / "finetune/model_final.pth"))
    assert sum(p.numel() for p in model.parameters()) == size
