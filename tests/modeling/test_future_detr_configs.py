"""The configurations of FutureDETR for rasters: sizes, stages, and a step of the smallest one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from modeling.tiny_future_detr import make_clip
from roca_nocs.data.mixtures import first_records
from roca_nocs.engine.config import load_config
from roca_nocs.engine.param_groups import slow_sampling
from roca_nocs.modeling.meta_arch import FutureDETR

CONFIGS = Path(__file__).parents[2] / "configs/future_detr"
STAGES = ("bev_detection", "bev_clips", "bev_rollout")


def load(name: str) -> DictConfig:
    return load_config(CONFIGS / f"{name}.py")


@pytest.mark.parametrize(
    ("name", "frames", "future", "masks"),
    [
        ("bev_detection", 1, 0, None),
        ("bev_clips", 3, 0, None),
        ("bev_clips_memory", 3, 0, None),
        ("bev_rollout", 3, 4, "conv"),
        ("bev_smoke", 2, 2, "dot"),
        ("bev_motion", 3, 4, "dot"),
        ("bev_present", 3, 0, "dot"),
        ("bev_stack", 3, 4, "dot"),
    ],
)
def test_models_fit_their_data(name: str, frames: int, future: int, masks: str | None) -> None:
    config = load(name)
    with torch.device("meta"):
        model = instantiate(config.model)
    assert isinstance(model, FutureDETR)
    assert (model.num_future, model.detector.mask_type) == (future, masks)
    assert (model.rollout is not None) == (future > 0 or name == "bev_present")
    tracks = frames > 1 and model.temporal_fusion != "stack"
    assert (model.propagation is not None) == tracks
    for part in (config.dataloader.train, config.dataloader.test):
        mapper = part.mapper
        assert mapper.n_past >= (model.num_frames or frames)
        assert mapper.n_future >= future
    assert config.dataloader.train.mapper.n_past == frames
    # The evaluator compares all frames that the mapper gives.
    assert config.dataloader.test.mapper.n_future == future


@pytest.mark.parametrize("name", ["bev_rollout", "bev_smoke"])
def test_skips_of_the_memory_have_the_widths_of_the_backbone(name: str) -> None:
    config = load(name)
    config.model.rollout.future_skips = "memory"
    with torch.device("meta"):
        model = instantiate(config.model)
    widths = [conv.out_channels for conv in model.rollout.skip_convs]
    assert widths == list(model.detector.skip_channels[:2])


@pytest.mark.parametrize("name", ["bev_motion", "bev_stack", "bev_rollout"])
def test_fewer_steps_are_evaluated_too(name: str) -> None:
    config = load(name)
    config.model.num_future = 0
    assert config.dataloader.train.mapper.n_future == 0
    assert config.dataloader.test.mapper.n_future == 0


@pytest.mark.parametrize("stages", [STAGES, ("bev_motion", "bev_present", "bev_stack")])
def test_stages_start_from_each_other(stages: tuple[str, ...]) -> None:
    configs = [load(name) for name in stages]
    assert configs[0].train.init_checkpoint == ""
    for before, after in pairwise(configs):
        expected = f"{before.train.output_dir}/model_final.pth"
        assert after.train.init_checkpoint == expected
    with torch.device("meta"):
        states = [instantiate(config.model).state_dict() for config in configs]
    for before, after in pairwise(states):
        assert {k: v.shape for k, v in before.items()}.items() <= {
            k: v.shape for k, v in after.items()
        }.items()


def test_recipe_of_the_documentation() -> None:
    """Each command starts from the weights that the one before leaves, with a growing future."""
    root = CONFIGS.parents[1]
    text = (root / "docs/future_detr.md").read_text()
    recipe = text[text.index("### The recipe") :].split("```")[1]
    words = [line.split() for line in recipe.splitlines() if "train_net.py" in line]
    loaded = [
        load_config(root / line[2], [word for word in line[3:] if "=" in word]) for line in words
    ]
    assert loaded[0].train.init_checkpoint == ""
    assert len({config.train.output_dir for config in loaded}) == len(loaded) == 8
    for before, after in pairwise(loaded):
        assert after.train.init_checkpoint == f"{before.train.output_dir}/model_final.pth"
    assert [config.dataloader.train.mapper.n_past for config in loaded] == [1, 2, 3, 4, 5, 3, 3, 3]
    assert [config.model.num_future for config in loaded] == [0, 0, 0, 0, 0, 1, 2, 4]
    assert [config.model.freeze_detector for config in loaded] == [False] * 5 + [True, False, False]
    for config in loaded:
        assert config.dataloader.test.mapper.n_past in (1, 3)
        for part in (config.dataloader.train, config.dataloader.test):
            assert part.mapper.n_future == config.model.num_future


def test_sampling_learns_slowly() -> None:
    config = load("bev_rollout")
    with torch.device("meta"):
        config.optimizer.params.model = instantiate(config.model)
    groups = instantiate(config.optimizer).param_groups
    assert {group["lr"] / config.optimizer.lr for group in groups} == {0.1, 1.0}
    slow = {n for n, _ in config.optimizer.params.model.named_parameters() if slow_sampling(n) < 1}
    assert any("rollout" in name for name in slow)
    assert all("sampling_offsets" in name or "reference_points" in name for name in slow)


@pytest.mark.parametrize("skips", ["warped", "memory"])
def test_smallest_model_trains_and_predicts(skips: str) -> None:
    torch.manual_seed(0)
    config = load("bev_smoke")
    config.model.rollout.future_skips = skips
    model = instantiate(config.model)
    size = (16, 16)
    clips = [
        make_clip(agents, seed=seed, frames=2, channels=5, size=size)
        for seed, agents in enumerate(([(4, range(9))], []))
    ]
    for clip in clips:  # one class
        for labels in clip["frames"] + clip["future"]:
            labels["labels"] = torch.zeros_like(labels["labels"])
    losses = model(clips)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    model.eval()
    for result in model(clips):
        assert result["instances"].shape == (3, *size)


def test_memory_of_the_frame_before_takes_a_step() -> None:
    """The config as shipped but for its size: every parameter is trained, clips are predicted."""
    torch.manual_seed(0)
    config = load("bev_clips_memory")
    sizes = {"hidden_dim": 32, "num_queries": 6, "enc_layers": 1, "dec_layers": 1, "nheads": 4}
    config.model.detector.update({**sizes, "dim_feedforward": 32})
    config.model.detector.backbone.update({"width": 32})
    model = instantiate(config.model)
    assert model.fusion is not None and model.temporal_fusion == "memory"
    clip = make_clip([(4, range(9))], frames=3, channels=5, size=(32, 32))
    sum(model([clip]).values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert model.fusion.attention.value_proj.weight.grad.abs().sum() > 0
    (result,) = model.eval()([clip])
    assert result["instances"].shape == (1, 32, 32)


def test_first_records() -> None:
    records = [{"image_id": number} for number in range(3)]
    assert first_records(records, 2) == records[:2]
    with pytest.raises(ValueError, match="has 3"):
        first_records(records, 4)
