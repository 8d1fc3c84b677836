"""Every config file: loads, survives being saved, and describes what its weights expect."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig

from roca_nocs.engine.config import TOP_LEVEL, check_config, load_config

CONFIGS = Path(__file__).parents[1] / "configs"
ALL = sorted(CONFIGS.rglob("*.py"))
FINAL = [path for path in ALL if path.relative_to(CONFIGS).parts[0] != "common"]


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def test_there_are_configs() -> None:
    final = {"mask_rcnn/rooms_r18.py", "roca/rooms_r18.py"}
    assert {"common/train.py"} | final <= {name(path) for path in ALL}


@pytest.mark.parametrize("path", ALL, ids=name)
def test_saved_config_loads_again(path: Path, tmp_path: Path) -> None:
    config = LazyConfig.load(str(path))
    assert len(config), "a config file defines at least one dict"
    if "train" not in config:  # pieces may refer to it
        config.train = LazyConfig.load(str(CONFIGS / "common/train.py"), "train")
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    LazyConfig.save(config, str(first))
    LazyConfig.save(LazyConfig.load(str(first)), str(second))
    assert first.read_text() == second.read_text()
    # What cannot be written as yaml would be pickled beside it.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first.yaml", "second.yaml"]


@pytest.mark.parametrize("path", FINAL, ids=name)
def test_final_config_is_valid(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert set(config) == set(TOP_LEVEL)
    saved = tmp_path / "config.yaml"
    LazyConfig.save(config, str(saved))
    check_config(LazyConfig.load(str(saved)), saved)


@pytest.mark.parametrize("path", FINAL, ids=name)
def test_schedule_and_optimizer_can_be_built(path: Path) -> None:
    config = load_config(path)
    schedule = instantiate(config.lr_multiplier)
    assert all(0 < schedule(k / 10) <= 1 for k in range(10))
    config.optimizer.params.model = torch.nn.Linear(2, 2)
    optimizer = instantiate(config.optimizer)
    assert optimizer.param_groups[0]["lr"] == config.optimizer.lr


def image_conventions(config: DictConfig) -> tuple[str, list[float], bool]:
    model = config.model
    stages = model.backbone.bottom_up.stages
    return model.input_format, list(model.pixel_std), bool(stages.get("stride_in_1x1", False))


@pytest.mark.parametrize("path", FINAL, ids=name)
def test_image_conventions_fit_the_weights(path: Path) -> None:
    config = load_config(path)
    for part in ("train", "test"):
        assert config.dataloader[part].mapper.image_format == config.model.input_format
    if "torchvision" in config.train.init_checkpoint:
        assert image_conventions(config) == ("RGB", [58.395, 57.12, 57.375], False)
    # The ResNets of detectron2's own detectors are those of MSRA.
    if any(name in config.train.init_checkpoint for name in ("MSRA", "COCO-InstanceSegmentation")):
        assert image_conventions(config) == ("BGR", [1.0, 1.0, 1.0], True)


@pytest.mark.parametrize(
    ("path", "entries", "parameters"),
    [
        # detectron2's Mask R-CNN and the published ROCA with all its frozen weights; the others as
        # measured for these recipes.
        ("mask_rcnn/coco_r50_1x.py", 307, 44_343_216),
        ("mask_rcnn/rooms_r18.py", 192, 12_432_838),
        ("roca/roca_r50_fpn_scan2cad.py", 454, 50_591_698),
        ("roca/ablation_pewr.py", 426, 49_987_625),
        ("roca/ablation_pew.py", 366, 47_991_257),
        ("roca/ablation_pe.py", 362, 47_855_056),
        ("roca/rooms_r18.py", 248, 12_457_249),
    ],
)
def test_model_size(path: str, entries: int, parameters: int) -> None:
    with torch.device("meta"):
        model = instantiate(load_config(CONFIGS / path).model)
    assert len(model.state_dict()) == entries
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("path", [p for p in FINAL if p.parent.name == "roca"], ids=name)
def test_parts_of_roca_fit_each_other(path: Path) -> None:
    config = load_config(path)
    heads = config.model.roi_heads
    align = heads.alignment_head
    depth = heads.depth_head
    assert align.in_channels == len(depth.in_features) * depth.level_channels
    assert align.grid_size == 2 * heads.mask_pooler.output_size
    assert align.shape_code_sizes[-1] == align.retrieval_head.shape_code_size
    assert heads.mask_head.num_classes == heads.num_classes + 1
    # Retrieval that is learned needs CAD models in training, all but random retrieval at inference.
    mode = align.retrieval_head.mode.split("_")[0]
    learned = {"resnet": "voxels", "pointnet": "points"}.get(mode)
    assert config.dataloader.train.mapper.get("retrieval") == learned
    assert config.model.cad_database["points" if mode == "nearest" else learned]


@pytest.mark.parametrize(
    ("name", "end_to_end", "weights", "mode"),
    [
        ("ablation_p", False, False, "nearest"),
        ("ablation_pe", True, False, "nearest"),
        ("ablation_pew", True, True, "nearest"),
        ("ablation_pewr", True, True, "resnet_resnet+image"),
        ("roca_r50_fpn_scan2cad", True, True, "resnet_resnet+image+comp"),
    ],
)
def test_ablation_of_roca(name: str, end_to_end: bool, weights: bool, mode: str) -> None:
    align = load_config(CONFIGS / f"roca/{name}.py").model.roi_heads.alignment_head
    assert (align.end_to_end, align.noc_weights) == (end_to_end, weights)
    assert align.retrieval_head.mode == mode


def test_rooms_model_trains_and_detects() -> None:
    torch.manual_seed(0)
    model = instantiate(load_config(CONFIGS / "mask_rcnn/rooms_r18.py").model)
    instances = Instances((120, 160))
    instances.gt_boxes = Boxes(torch.tensor([[20.0, 30.0, 80.0, 90.0]]))
    instances.gt_classes = torch.tensor([4])
    mask = torch.zeros(1, 120, 160, dtype=torch.bool)
    mask[0, 30:90, 20:80] = True
    instances.gt_masks = BitMasks(mask)
    image = torch.randint(0, 255, (3, 120, 160), dtype=torch.uint8)
    with EventStorage():
        losses = model([{"image": image, "instances": instances}])
        names = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
        assert losses.keys() == names
        sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        (output,) = model([{"image": image, "height": 240, "width": 320}])
    assert output["instances"].image_size == (240, 320)
    assert len(output["instances"]) <= 30
