"""Every config file: loads, survives being saved, and describes what its weights expect."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf

from roca_nocs.engine.config import OPTIONAL, TOP_LEVEL, check_config, load_config

CONFIGS = Path(__file__).parents[1] / "configs"
ALL = sorted(CONFIGS.rglob("*.py"))
FINAL = [path for path in ALL if path.relative_to(CONFIGS).parts[0] != "common"]


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def test_there_are_configs() -> None:
    final = {"mask_rcnn/rooms_r18.py", "roca/rooms_r18.py", "aligndetr/rooms_r18.py"}
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
    assert set(TOP_LEVEL) <= set(config) <= set(TOP_LEVEL | OPTIONAL)
    saved = tmp_path / "config.yaml"
    LazyConfig.save(config, str(saved))
    check_config(LazyConfig.load(str(saved)), saved)


@pytest.mark.parametrize("path", FINAL, ids=name)
def test_nothing_of_a_config_is_dropped(path: Path) -> None:
    """LazyConfig leaves out whatever is not a dict, such as a list of hooks, without a word."""
    statements = ast.parse(path.read_text()).body
    (public,) = (
        ast.literal_eval(each.value)
        for each in statements
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__all__"
    )
    config = load_config(path)
    assert set(config) == set(public)
    for hook in config.get("hooks", {}).values():
        assert hook.get("_target_"), f"{hook} is no lazy call"


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
    backbone = model.get("detector", model).backbone
    stages = backbone.get("bottom_up", backbone).get("stages", {})
    return model.input_format, list(model.pixel_std), bool(stages.get("stride_in_1x1", False))


@pytest.mark.parametrize("path", FINAL, ids=name)
def test_image_conventions_fit_the_weights(path: Path) -> None:
    config = load_config(path)
    for part in ("train", "test"):
        if "input_format" not in config.model:
            continue  # rasters have no colours
        mapper = config.dataloader[part].mapper
        key = "img_format" if "img_format" in mapper else "image_format"
        assert mapper[key] == config.model.input_format
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
        ("roca/rooms_r18.py", 248, 12_337_945),
        ("roca/rooms_r18_align_detr.py", 441, 13_680_032),
        ("aligndetr/r50_12ep.py", 634, 47_650_316),
        ("aligndetr/r50_dino_12ep.py", 634, 47_650_316),
        ("aligndetr/rooms_r18.py", 327, 13_441_268),
        ("aligndetr/rooms_r18_dino.py", 327, 13_441_268),
    ],
)
def test_model_size(path: str, entries: int, parameters: int) -> None:
    with torch.device("meta"):
        model = instantiate(load_config(CONFIGS / path).model)
    assert len(model.state_dict()) == entries
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("depth", "channels"),
    [
        (18, (128, 256, 512)),
        (34, (128, 256, 512)),
        (50, (512, 1024, 2048)),
        (101, (512, 1024, 2048)),
    ],
)
def test_depth_of_align_detr(depth: int, channels: tuple[int, ...]) -> None:
    """One override is enough: the neck follows."""
    override = f"model.backbone.stages.depth={depth}"
    config = load_config(CONFIGS / "aligndetr/r50_12ep.py", [override])
    with torch.device("meta"):
        model = instantiate(config.model)
    assert model.neck.in_channels == channels
    block = model.backbone.res4[0]
    assert (tuple(block.conv1.stride) == (1, 1)) == (depth >= 50)
    assert len(model.backbone.res4) == {18: 2, 34: 6, 50: 6, 101: 23}[depth]


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
    assert config.model.cad_database["points" if mode in ("nearest", "silhouette") else learned]


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


def test_roca_on_align_detr_is_comparable() -> None:
    """Data, schedule, length and regions are those of ROCA with its box branch."""
    ours, other = (
        load_config(CONFIGS / f"roca/{each}.py") for each in ("rooms_r18_align_detr", "rooms_r18")
    )
    assert ours.dataloader == other.dataloader and ours.lr_multiplier == other.lr_multiplier
    changed = {key for key in other.train if ours.train[key] != other.train[key]}
    assert changed == {"output_dir"}
    for key in ("cad_database", "pixel_mean", "pixel_std", "input_format"):
        assert ours.model[key] == other.model[key]
    for key in ("mask_head", "alignment_head", "class_counts", "score_threshold", "num_classes"):
        assert ours.model.roi_heads[key] == other.model.roi_heads[key], key
    heads = other.model.roi_heads
    regions = heads.batch_size_per_image * heads.positive_fraction
    assert ours.model.roi_heads.batch_size_per_image == regions
    proposals = ours.model.proposal_generator
    found = proposals.select_box_nums_for_evaluation
    assert found == heads.box_predictor.test_topk_per_image
    assert len(proposals.criterion.match_num) == proposals.transformer.decoder.num_layers + 1
    with torch.device("meta"):
        ours.optimizer.params.model = instantiate(ours.model)
    groups = instantiate(ours.optimizer).param_groups
    rates = {(group["lr"] / ours.optimizer.lr, group["weight_decay"] > 0) for group in groups}
    assert rates == {(factor, decays) for factor in (0.4, 1.0) for decays in (True, False)}


@pytest.mark.parametrize("path", [p for p in FINAL if p.parent.name == "aligndetr"], ids=name)
def test_parts_of_align_detr_fit_each_other(path: Path) -> None:
    config = load_config(path)
    layers = config.model.transformer.decoder.num_layers
    ks = list(config.model.criterion.match_num)
    assert len(ks) == layers + 1
    dino = "dino" in path.stem
    assert set(ks) == ({1} if dino else {1, 2}) and ks[-1] == 1
    assert config.model.criterion.cls_loss == ("focal" if dino else "ia_bce")
    assert config.model.criterion.tau == (3.0 if "tau3" in path.stem else 1.5)


@pytest.mark.parametrize(
    ("epochs", "drop"),
    [
        ("12ep", 82500),
        ("24ep", 150000),
        ("36ep", 225000),
        ("24ep_tau3", 150000),
        ("36ep_tau3", 225000),
    ],
)
def test_published_schedules_of_align_detr(epochs: str, drop: int) -> None:
    config = load_config(CONFIGS / f"aligndetr/r50_{epochs}.py")
    steps = config.train.max_iter
    assert steps == 7500 * int(epochs[:2])
    schedule = instantiate(config.lr_multiplier)
    factors = [schedule(iteration / steps) for iteration in (0, drop - 1, drop, steps - 1)]
    assert factors == pytest.approx([1.0, 1.0, 0.1, 0.1])
    assert config.train.clip_gradients.norm == 0.1
    assert config.train.checkpointer == {"period": 10000, "max_to_keep": 100}
    assert config.dataloader.train.total_batch_size == config.dataloader.train.num_workers == 16
    evaluator = config.dataloader.evaluator
    assert evaluator.tasks == ["bbox"] and evaluator.output_dir == config.train.output_dir


@pytest.mark.parametrize(
    ("schedule", "epochs", "drop", "warmup"),
    [
        ("detr_50ep", 50, 300000, 0),
        ("detr_12ep_warmup", 12, 82500, 7.5),
        ("detr_50ep_warmup", 50, 300000, 7.5),
    ],
)
def test_other_schedules_of_detrex(schedule: str, epochs: int, drop: int, warmup: float) -> None:
    steps = 7500 * epochs
    config = OmegaConf.create({"train": {"max_iter": steps}})
    config.schedule = LazyConfig.load(str(CONFIGS / "common/schedule.py"), schedule)
    factor = instantiate(config.schedule)
    found = [factor(iteration / steps) for iteration in (0, 8, drop - 1, drop, steps - 1)]
    assert found == pytest.approx([0.001 if warmup else 1.0, 1.0, 1.0, 0.1, 0.1])
    if warmup:
        assert factor(5 / steps) == pytest.approx(0.001 + 0.999 * 5 / warmup)


def test_fast_optimizer_of_align_detr() -> None:
    """2e-4, a tenth for the backbone and for where attention samples; no decay of norms."""
    config = load_config(CONFIGS / "aligndetr/r50_12ep.py")
    config.optimizer = LazyConfig.load(str(CONFIGS / "common/optim.py"), "adamw_detr_fast")
    with torch.device("meta"):
        model = instantiate(config.model)
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    expected = dict.fromkeys(model.parameters(), (2e-4, 1e-4))
    for module_name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            slow = "backbone" in module_name or module_name.endswith("sampling_offsets")
            is_norm = isinstance(module, torch.nn.LayerNorm | torch.nn.GroupNorm)
            assert not (slow and is_norm), key
            expected[parameter] = (2e-5 if slow else 2e-4, 0.0 if is_norm else 1e-4)
    found = {
        parameter: (pytest.approx(group["lr"]), group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert all(found[p] == rates for p, rates in expected.items() if p.requires_grad)
    assert set(found) == {p for p in expected if p.requires_grad}
    assert {rates[0] for rates in expected.values()} == {2e-4, 2e-5}


def test_saved_config_builds_the_same_align_detr(tmp_path: Path) -> None:
    """With the optimizer, whose learning rates come from a function."""
    config = load_config(CONFIGS / "aligndetr/r50_12ep.py", ["model.num_classes=3"])
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    built = []
    for each in (config, load_config(tmp_path / "config.yaml")):
        with torch.device("meta"):
            each.optimizer.params.model = instantiate(each.model)
        groups = instantiate(each.optimizer).param_groups
        rates = [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups]
        built.append((repr(each.optimizer.params.model), rates))
    assert built[0] == built[1]
    assert len(built[0][1]) == 3


def rooms_input() -> dict[str, Any]:
    instances = Instances((120, 160))
    instances.gt_boxes = Boxes(torch.tensor([[20.0, 30.0, 80.0, 90.0]]))
    instances.gt_classes = torch.tensor([4])
    mask = torch.zeros(1, 120, 160, dtype=torch.bool)
    mask[0, 30:90, 20:80] = True
    instances.gt_masks = BitMasks(mask)
    image = torch.randint(0, 255, (3, 120, 160), dtype=torch.uint8)
    return {"image": image, "instances": instances}


def test_rooms_align_detr_trains_and_detects() -> None:
    torch.manual_seed(0)
    model = instantiate(load_config(CONFIGS / "aligndetr/rooms_r18.py").model)
    each = rooms_input()
    losses = model([each])
    # Three losses of three layers, the encoder, and three layers of denoising.
    assert len(losses) == 3 * (3 + 1 + 3)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        (output,) = model([{**each, "height": 240, "width": 320}])
    assert output["instances"].image_size == (240, 320)
    assert 0 < len(output["instances"]) <= 100


def test_rooms_model_trains_and_detects() -> None:
    torch.manual_seed(0)
    model = instantiate(load_config(CONFIGS / "mask_rcnn/rooms_r18.py").model)
    each = rooms_input()
    with EventStorage():
        losses = model([each])
        names = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
        assert losses.keys() == names
        sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        (output,) = model([{"image": each["image"], "height": 240, "width": 320}])
    assert output["instances"].image_size == (240, 320)
    assert len(output["instances"]) <= 30


@pytest.mark.parametrize("name", ["ganocs_r50_fpn", "ganocs_r50_fpn_gan"])
def test_ganocs_trains_heads_proposals_and_pyramid(name: str) -> None:
    """Adam whose decay also concerns biases and norms; the ResNet stays."""
    config = load_config(CONFIGS / f"nocs/{name}.py")
    with torch.device("meta"):
        model = config.optimizer.params.model = instantiate(config.model)
    optimizer = instantiate(config.optimizer)
    assert type(optimizer) is torch.optim.Adam
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    names = {key for key, p in model.named_parameters() if p in trained}
    assert not any(key.startswith("backbone.bottom_up") for key in names)
    for prefix in ("roi_heads.", "proposal_generator.", "backbone.fpn_"):
        part = {key for key, _ in model.named_parameters() if key.startswith(prefix)}
        assert part - names == {key for key in part if "critique" in key}, prefix
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {1e-6 if "gan" in name.removeprefix("ganocs") else 1e-4}
    assert {group["lr"] for group in optimizer.param_groups} == {1e-4}
    betas = {tuple(group["betas"]) for group in optimizer.param_groups}
    assert betas == ({(0.9, 0.99), (0.5, 0.99)} if decays == {1e-6} else {(0.9, 0.99)})


@pytest.mark.parametrize("path", sorted((CONFIGS / "nocs").glob("*.py")), ids=name)
def test_poses_without_depth_have_sizes(path: Path) -> None:
    sizes = load_config(path).model.class_sizes
    assert sizes.target == "roca_nocs.data.class_sizes.mean_sizes"
    # Of CAMERA only poses would tell, and its training images have none.
    assert sizes.names in ("nocs_real_train", "habitat_train", "tabletop_train")
