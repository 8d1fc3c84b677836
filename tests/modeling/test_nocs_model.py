"""The whole NOCS model, small: losses and gradients of odd batches, poses, options, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances
from torch import nn

from modeling.steps import infer, train_step
from modeling.tiny_nocs import CLASSES, SIDE, build_nocs, make_input, narrow_nocs
from modeling.tiny_roca import HEIGHT, WIDTH
from roca_nocs.data.nocs_mapper import NocsMapper
from roca_nocs.engine.config import load_config
from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.pose import rotation_error_degrees
from roca_nocs.geometry.rotation import quaternion_to_matrix
from roca_nocs.geometry.symmetry import symmetry_ids
from roca_nocs.modeling.criteria.dispersion import DispersionLoss
from roca_nocs.modeling.criteria.step_schedule import StepSchedule
from roca_nocs.modeling.meta_arch import NocsRCNN
from roca_nocs.modeling.roi_heads.nocs_heads import object_maps
from roca_nocs.modeling.roi_heads.nocs_targets import NocsTargets, resample

CONFIGS = Path(__file__).parents[2] / "configs/nocs"
DETECTION = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
COORDINATES = {f"loss_nocs_{axis}" for axis in "xyz"}
POSE_FIELDS = ("pred_rotations", "pred_translations", "pred_scales", "pose_valid", "pose_reasons")


class Recorder(nn.Module):
    """A critique that keeps what it is given."""

    uses_depth = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch.Tensor, NocsTargets, torch.Tensor]] = []

    def forward(
        self, coordinates: torch.Tensor, targets: NocsTargets, depth: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        self.calls.append((coordinates, targets, depth))
        return {"loss_nocs_critique": coordinates.square().sum()}


@pytest.mark.parametrize("num_bins", [8, 1], ids=["bins", "regression"])
@pytest.mark.parametrize(
    "batch",
    [
        ((2, True), (3, True)),
        ((2, False), (3, True), (0, True)),
        ((0, True),),
        ((0, False), (0, True)),
        ((2, False),),
    ],
    ids=str,
)
def test_every_batch_trains_every_parameter(
    batch: tuple[tuple[int, bool], ...], num_bins: int
) -> None:
    """Images with and without objects and coordinates, of different sizes."""
    sizes = [(HEIGHT, WIDTH), (WIDTH, HEIGHT), (HEIGHT - 11, WIDTH - 30)]
    inputs = [
        make_input(count, size=size, seed=row, labels=labels)
        for row, ((count, labels), size) in enumerate(zip(batch, sizes, strict=False))
    ]
    losses, logged = train_step(build_nocs(head={"num_bins": num_bins}), inputs)
    assert losses.keys() == DETECTION | COORDINATES
    learns = any(count and labels for count, labels in batch)
    assert all((losses[name] > 0) == learns for name in COORDINATES)
    assert logged["nocs/images_without_labels"] == sum(not labels for _, labels in batch)
    assert logged["nocs/images_without_objects"] == sum(not count for count, _ in batch)
    assert ("nocs/euclidean_error" in logged) == learns


@pytest.mark.parametrize("counts", [(2, 3), (0,)], ids=str)
def test_bins_with_offsets_train_with_all_other_losses(counts: tuple[int, ...]) -> None:
    model = build_nocs(head={"bin_offsets": True}, critique=Recorder(), dispersion=DispersionLoss())
    losses, _ = train_step(model, [make_input(count, seed=count) for count in counts])
    others = {"loss_nocs_offset", "loss_nocs_dispersion", "loss_nocs_critique"}
    assert losses.keys() == DETECTION | COORDINATES | others
    assert all((losses[name] > 0) == any(counts) for name in COORDINATES | others)


@pytest.mark.parametrize("offsets", [False, True])
def test_multi_loss(offsets: bool) -> None:
    """Cross-entropy, distance and dispersion of bins, with weights that change in steps."""
    weight = StepSchedule([2.0, 0.0], [1])
    model = build_nocs(
        head={"bin_offsets": offsets},
        loss={"distance": "l2", "distance_weight": weight},
        dispersion=DispersionLoss(weight=weight),
    )
    losses, _ = train_step(model, [make_input(2)])
    named = {"loss_nocs_distance", "loss_nocs_dispersion"}
    assert named < losses.keys() and all(losses[name] > 0 for name in COORDINATES | named)


def test_regions_meet_their_own_targets() -> None:
    critique = Recorder()
    model = build_nocs(critique=critique, dispersion=DispersionLoss())
    # Without the sampling of the background, all proposals that are annotated boxes stay.
    model.roi_heads.batch_size_per_image = 512
    sizes = [(HEIGHT, WIDTH), (WIDTH, HEIGHT), (48, 48), (HEIGHT, WIDTH)]
    inputs = [
        make_input(count, size=size, seed=row, labels=row != 3, depth=row != 1)
        for row, (count, size) in enumerate(zip((0, 4, 0, 3), sizes, strict=True))
    ]
    losses, logged = train_step(model, inputs)
    assert losses.keys() == DETECTION | COORDINATES | {"loss_nocs_dispersion", "loss_nocs_critique"}
    assert logged["nocs/images_without_depth"] == 1
    ((coordinates, targets, depth),) = critique.calls
    assert coordinates.shape == targets.coordinates.shape
    assert 0 <= coordinates.min() and coordinates.max() <= 1 and coordinates.requires_grad
    assert depth.shape == (len(coordinates), 1, SIDE, SIDE)

    canvas = model.preprocess_image(inputs).tensor.shape[-2:]
    maps = model._maps(inputs, tuple(canvas))
    objects = object_maps([each["instances"] for each in inputs], maps)
    rows = torch.arange(7)
    expected, mask = resample(objects, objects.boxes, rows, SIDE)
    classes = torch.cat([each["instances"].gt_classes for each in inputs])
    found = 0
    for row in range(7):
        expected[row] *= row < 4
        same = (targets.coordinates == expected[row]).flatten(1).all(dim=1)
        same &= (targets.mask == mask[row]).flatten(1).all(dim=1)
        same &= targets.classes == classes[row]
        assert same.any()
        region = int(same.nonzero()[0, 0])
        assert targets.mask[region].all()  # a rectangle fills its box
        assert targets.labelled[region] == (row < 4)
        assert depth[region].any() == (row >= 4)
        found += 1
    assert found == 7


def test_unlabelled_images_do_not_teach_coordinates() -> None:
    model = build_nocs()
    train_step(model, [make_input(3, labels=False)])
    gradients = [p.grad for p in model.roi_heads.nocs_head.parameters()]
    assert not any(gradient.any() for gradient in gradients)


def test_outputs() -> None:
    model = build_nocs()
    records = [make_input(2, seed=1), make_input(2, size=(80, 50), seed=2, depth=False)]
    records[0].update(height=128, width=192)
    outputs = infer(model, *records)
    for record, output in zip(records, outputs, strict=True):
        instances = output["instances"]
        count = len(instances)
        assert count > 0
        assert instances.pred_masks.shape == (count, record["height"], record["width"])
        assert instances.pred_nocs.shape == (count, 3, SIDE, SIDE)
        assert 0 <= instances.pred_nocs.min() and instances.pred_nocs.max() <= 1
        assert instances.pred_rotations.shape == (count, 3, 3)
        for name in ("pred_translations", "pred_scales"):
            assert instances.get(name).shape == (count, 3) and instances.get(name).isfinite().all()
        valid = instances.pose_valid
        assert torch.equal(valid, instances.pose_reasons == FailureReason.OK)
        torch.testing.assert_close(
            instances.pred_rotations.det(), torch.ones(count), atol=1e-4, rtol=0
        )
    reasons = set(outputs[1]["instances"].pose_reasons.tolist())
    assert reasons <= {FailureReason.NO_VALID_DEPTH, FailureReason.TOO_FEW_POINTS}


def test_official_alignment(embedded_names: Any) -> None:
    """Wrong points pull on its poses, as in the official program, and not on ours."""
    record = next(each for each in DatasetCatalog.get("tabletop_tiny_val") if each["annotations"])
    mapped = NocsMapper(True, augmentations=[], depth=True)(record)
    diagonals = torch.tensor([each["s"][0] for each in record["annotations"]])
    errors = []
    for rule in ("corrected", "nocs"):
        model = build_nocs(options={"alignment_rule": rule})
        detections = annotated_detections(model, mapped)
        detections.pred_nocs[:, :, ::3] = 1 - detections.pred_nocs[:, :, ::3]
        fit = model._fit([detections], [mapped])
        errors.append((fit.scale / diagonals - 1)[fit.valid].abs().median())
    assert errors[0] < 0.03 and errors[1] > 0.2


def test_no_detections() -> None:
    model = build_nocs()
    model.roi_heads.box_predictor.test_score_thresh = 1.1
    (output,) = infer(model, make_input(1))
    instances = output["instances"]
    assert len(instances) == 0
    assert all(instances.has(name) for name in ("pred_nocs", "pred_masks", *POSE_FIELDS))
    assert instances.pred_nocs.shape == (0, 3, SIDE, SIDE)


def test_the_order_of_images_and_repetition_change_nothing() -> None:
    model = build_nocs()
    records = [make_input(2, seed=1), make_input(3, seed=2)]
    first, second = (each["instances"] for each in infer(model, *records))
    again = [each["instances"] for each in infer(model, *records)]
    for a, b in zip((first, second), again, strict=True):
        for name in POSE_FIELDS:
            assert torch.equal(a.get(name), b.get(name))
    swapped = [each["instances"] for each in infer(model, *records[::-1])]
    torch.testing.assert_close(swapped[1].pred_nocs, first.pred_nocs)


def annotated_detections(model: NocsRCNN, record: dict[str, Any]) -> Instances:
    """What a perfect model says of a training input."""
    truth = record["instances"]
    maps = model._maps([record], truth.image_size)
    rows = torch.arange(len(truth))
    objects = object_maps([truth], maps)
    coordinates, mask = resample(objects, truth.gt_boxes.tensor, rows, SIDE)
    return Instances(
        truth.image_size,
        pred_boxes=truth.gt_boxes,
        pred_classes=truth.gt_classes,
        pred_nocs=coordinates,
        pred_masks=mask[:, None].float(),
    )


@pytest.mark.parametrize("with_depth", [True, False], ids=["depth", "known size"])
def test_poses_of_perfect_predictions(embedded_names: Any, with_depth: bool) -> None:
    """Written, read, cut into regions and aligned: the generating poses come back."""
    sizes: list[torch.Tensor] = []
    model = build_nocs(options={"class_sizes": lambda: torch.stack(sizes)})
    errors = {"degrees": [], "metres": [], "size": []}
    mapper = NocsMapper(True, augmentations=[], depth=True)
    for record in DatasetCatalog.get("tabletop_tiny_val")[:6]:
        mapped = mapper(record)
        detections = annotated_detections(model, mapped)
        # An object of enough cells, seen as a whole.
        area = mapped["instances"].gt_masks.tensor.flatten(1).sum(dim=1)
        kept = (area > 200).nonzero()[:, 0]
        annotations = [record["annotations"][row] for row in kept.tolist()]
        if not annotations:
            continue
        detections = detections[kept]
        quaternions, translations, diagonals, extents = (
            torch.tensor([each[name] for each in annotations])
            for name in ("q", "t", "s", "extents")
        )
        if not with_depth:
            del mapped["depth"]
            # Every object becomes a class of its own, whose size is known.
            detections.pred_classes = torch.arange(len(kept))
            sizes[:] = diagonals * extents
            model._class_sizes = None
        fit = model._fit([detections], [mapped])
        assert fit.valid.all()
        ids = symmetry_ids([each["sym"] for each in annotations])
        degrees = rotation_error_degrees(fit.rotation, quaternion_to_matrix(quaternions), ids)
        errors["degrees"] += degrees.tolist()
        errors["metres"] += (fit.translation - translations).norm(dim=1).tolist()
        errors["size"] += (fit.scale / diagonals[:, 0] - 1).abs().tolist()
    assert len(errors["degrees"]) > 5
    medians = {name: float(torch.tensor(values).median()) for name, values in errors.items()}
    assert medians["size"] < 0.01
    if with_depth:
        assert medians["degrees"] < 0.5 and medians["metres"] < 0.001
    else:
        assert medians["degrees"] < 1 and medians["metres"] < 0.01


@pytest.mark.parametrize(
    "name",
    [
        "tabletop_r18",
        "tabletop_r18_nosym",
        "tabletop_r18_regression",
        "tabletop_r18_shared",
        "tabletop_r18_offset",
        "tabletop_r18_cache",
    ],
)
def test_configs_train_and_infer(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.py")
    narrow_nocs(config.model)
    model = instantiate(config.model)
    rotations = model.roi_heads.nocs_loss.rotations
    assert rotations.shape == (6, 1 if "nosym" in name else 6, 3, 3)
    losses, _ = train_step(model, [make_input(2), make_input(0)])
    further = {"offset": {"loss_nocs_offset"}, "cache": {"loss_nocs_dispersion"}}
    assert losses.keys() == DETECTION | COORDINATES | further.get(name.split("_")[-1], set())
    (output,) = infer(model, make_input(2))
    assert len(output["instances"]) > 0


def test_bad_options() -> None:
    with pytest.raises(ValueError, match=r"num_classes is 5, but the NOCS head has 6"):
        build_nocs(num_classes=5, head={"num_classes": 6})
    with pytest.raises(ValueError, match=r"num_classes is 7, .* 7 classes and .* symmetries of 6"):
        build_nocs(num_classes=7)
    with pytest.raises(
        ValueError, match=r"decodes bins by the rule 'nocs', its NocsLoss .* 'centre'"
    ):
        build_nocs(head={"bin_rule": "nocs"}, loss={"bin_rule": "centre"})
    with pytest.raises(ValueError, match="its DispersionLoss encodes them by 'ganocs'"):
        build_nocs(dispersion=DispersionLoss(bin_rule="ganocs"))
    with pytest.raises(ValueError, match=r"regresses: its loss is a distance already"):
        build_nocs(head={"num_bins": 1}, loss={"distance_weight": 1.0})
    with pytest.raises(ValueError, match="alignment_rule is 'ours'; expected one of"):
        build_nocs(options={"alignment_rule": "ours"})
    with pytest.raises(ValueError, match="give the heads a mask branch"):
        build_nocs(mask_in_features=None)
    with pytest.raises(ValueError, match=r"input 0 \(image_0.png\) has no instances"):
        record = make_input(1)
        del record["instances"]
        build_nocs().train()([record])


def test_classes() -> None:
    """The names that the tests use are those of the data."""
    from roca_nocs.data.datasets import nocs

    assert nocs.CLASSES == CLASSES
