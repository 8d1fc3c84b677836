"""The whole ROCA model, small: losses and gradients of odd batches, outputs, options, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from modeling.tiny_roca import HEIGHT, NUM_CLASSES, WIDTH, build_roca, make_database, make_input
from roca_nocs.losses import class_weights_from_counts
from roca_nocs.modeling.meta_arch import ROCA
from roca_nocs.structures import CadDatabase

DETECTION = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
DENSE = {"loss_image_depth", "loss_mask", "loss_mask_iou"}
POSES = {
    *("loss_roi_depth", "loss_mean_depth", "loss_depth_min", "loss_depth_max"),
    *("loss_scale", "loss_trans", "loss_noc", "loss_proc", "loss_trans_proc"),
}
# Form of the CAD models, losses and number of all losses by retrieval mode; the last is published.
RETRIEVAL = {
    "nearest": (None, set(), 16),
    "silhouette": (None, set(), 16),
    "pointnet_pointnet+image": ("points", {"loss_triplet"}, 17),
    "resnet_resnet+image+comp": ("voxels", {"loss_triplet", "loss_noc_comp"}, 18),
}
# Numbers of objects of the images of a batch.
BATCHES = [(2,), (1, 1), (0, 3), (3, 0, 12), (0,), (0, 0)]
POSE_FIELDS = ("pred_translations", "pred_rotations", "pred_scales")


def train_step(model: ROCA, inputs: list[dict[str, Any]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Losses and, in the parameters, gradients."""
    torch.manual_seed(seed)
    model.zero_grad()
    with EventStorage():
        losses = model.train()(inputs)
    sum(losses.values()).backward()
    return losses


def infer(model: ROCA, *inputs: dict[str, Any], **options: Any) -> list[Any]:
    with torch.no_grad():
        return model.eval().inference(list(inputs), **options)


def without_targets(record: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in record.items() if key not in ("instances", "instance", "depth")
    }


def detections(*classes: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Instances:
    """Boxes side by side."""
    first = torch.arange(len(classes)) * 20.0
    boxes = torch.stack([first, first / 4, first + 30, first / 4 + 35], dim=1)
    return Instances(
        size,
        pred_boxes=Boxes(boxes),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.linspace(0.9, 0.6, len(classes)),
    )


def assert_finite(model: ROCA, losses: dict[str, torch.Tensor]) -> None:
    for name, loss in losses.items():
        assert loss.shape == () and loss.isfinite(), name
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("mode", RETRIEVAL)
@pytest.mark.parametrize("counts", BATCHES, ids=str)
def test_every_batch_trains_every_parameter(mode: str, counts: tuple[int, ...]) -> None:
    form, extra, number = RETRIEVAL[mode]
    model = build_roca(mode)
    sizes = [(HEIGHT, WIDTH), (WIDTH, HEIGHT), (HEIGHT - 11, WIDTH - 30)]
    inputs = [
        make_input(count, size=size, seed=row, retrieval=form)
        for row, (count, size) in enumerate(zip(counts, sizes, strict=False))
    ]
    losses = train_step(model, inputs)
    assert losses.keys() == DETECTION | DENSE | POSES | extra
    assert len(losses) == number
    assert_finite(model, losses)
    of_objects = {"loss_box_reg", "loss_rpn_loc"} | DENSE | POSES | extra
    if not sum(counts):
        assert all(losses[name] == 0 for name in of_objects)
    else:
        assert all(losses[name] > 0 for name in DETECTION | DENSE | POSES)


def test_regions_meet_their_own_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind images with none: the proposals that are annotated boxes have all of them."""
    model = build_roca(batch_size_per_image=512)
    inputs = [
        make_input(count, size=size, seed=row)
        for row, (count, size) in enumerate(
            [(0, (HEIGHT, WIDTH)), (4, (WIDTH, HEIGHT)), (0, (32, 32)), (3, (HEIGHT, WIDTH))]
        )
    ]
    seen = []
    head = model.roi_heads.alignment_head
    original = head.losses

    def spy(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        seen.append((args[0], kwargs["targets"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(head, "losses", spy)
    train_step(model, inputs)
    ((regions, targets),) = seen
    found = 0
    for image, record in enumerate(inputs):
        truth = record["instances"]
        for row, box in enumerate(truth.gt_boxes.tensor):
            same = (regions.boxes == box).all(dim=1) & (regions.image_indices == image)
            (region,) = same.nonzero()[:, 0].tolist()
            found += 1
            assert regions.classes[region] == truth.gt_classes[row]
            assert torch.equal(regions.intrinsics[region], record["intrinsics"])
            assert torch.equal(targets.rotations[region], truth.gt_rotations[row])
            assert torch.equal(targets.translations[region], truth.gt_translations[row])
            assert torch.equal(targets.scales[region], truth.gt_scales[row])
            assert targets.symmetries[region] == truth.gt_symmetries[row]
            assert targets.masks[region].all()  # a rectangle fills its box
            assert torch.equal(
                targets.depths[image, 0, : truth.image_size[0], : truth.image_size[1]],
                record["depth"],
            )
    assert found == 7


def test_order_of_the_images_does_not_matter() -> None:
    """With all proposals instead of a sample, and without dropout, nothing is random."""
    model = build_roca(dropout=0.0, batch_size_per_image=10_000, positive_fraction=1.0)
    model.proposal_generator.batch_size_per_image = 10_000
    inputs = [make_input(3, seed=1), make_input(0, seed=2), make_input(2, size=(80, 50), seed=3)]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    losses = train_step(model, inputs)
    model.load_state_dict(state)
    for name, loss in train_step(model, inputs[::-1], seed=1).items():
        torch.testing.assert_close(loss, losses[name], rtol=1e-3, atol=1e-4, msg=name)

    given = [detections(0, 3), detections(), detections(5, size=(80, 50))]
    forth = infer(model, *inputs, detected_instances=given)
    back = infer(model, *inputs[::-1], detected_instances=given[::-1])[::-1]
    for one, other in zip(forth, back, strict=True):
        assert len(one["instances"]) == len(other["instances"])
        torch.testing.assert_close(one["depth"], other["depth"], rtol=1e-4, atol=1e-5)
        for name in ("pred_translations", "pred_scales", "pred_nocs"):
            mine, theirs = one["instances"].get(name), other["instances"].get(name)
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_same_seed_same_losses() -> None:
    inputs = [make_input(4, retrieval="points"), make_input(3, seed=1, retrieval="points")]
    first, second, other = (
        train_step(build_roca("pointnet_pointnet+image"), inputs, seed) for seed in (5, 5, 6)
    )
    assert first == second
    assert first != other


def test_depth_that_is_known_nowhere() -> None:
    record = make_input(3)
    record["depth"] = torch.zeros_like(record["depth"])
    model = build_roca()
    losses = train_step(model, [record])
    assert_finite(model, losses)
    assert losses["loss_image_depth"] == 0 and losses["loss_proc"] > 0


@pytest.mark.parametrize("name", ["intrinsics", "depth", "instance"])
def test_what_is_missing_is_named(name: str) -> None:
    model, record = build_roca(), make_input(1, seed=7)
    del record[name]
    with pytest.raises(ValueError, match=rf"input 1 \(image_7.png\) has no {name}"):
        train_step(model, [make_input(1), record])
    if name == "intrinsics":
        with pytest.raises(ValueError, match=r"input 0 \(image_7.png\) has no intrinsics"):
            infer(model, record)
    else:
        infer(model, record)


def test_class_weights_come_with_the_first_step() -> None:
    calls = []

    def counts() -> torch.Tensor:
        calls.append(None)
        return torch.arange(2, 2 + NUM_CLASSES) ** 2

    model = build_roca(class_counts=counts)
    infer(model, make_input(1))
    assert not calls and (model.roi_heads.class_weights == 1).all()
    losses = train_step(model, [make_input(6)])
    assert_finite(model, losses)
    expected = class_weights_from_counts(counts())
    calls.pop()
    train_step(model, [make_input(0)])
    assert len(calls) == 1
    assert torch.equal(model.roi_heads.class_weights, expected)
    assert torch.equal(model.roi_heads.box_predictor.class_weights, expected)
    assert torch.equal(model.state_dict()["roi_heads.class_weights"], expected)
    equal = train_step(build_roca(), [make_input(6)])
    assert all(equal[name] != losses[name] for name in ("loss_cls", "loss_mask", "loss_noc"))


def test_class_counts_of_other_classes_are_refused() -> None:
    model = build_roca(class_counts=lambda: torch.ones(4))
    with pytest.raises(ValueError, match="9 classes need 10 weights"):
        train_step(model, [make_input(1)])


def test_output() -> None:
    model = build_roca(cad_database=lambda: make_database(range(NUM_CLASSES), {"a": [0, 1, 2, 3]}))
    inputs = [
        without_targets(make_input(0, scene="a")),
        without_targets(make_input(0, size=(80, 52), scene="b")),
    ]
    for record, output in zip(inputs, infer(model, *inputs), strict=True):
        found, size = output["instances"], tuple(record["image"].shape[1:])
        count = len(found)
        assert found.image_size == size and 0 < count <= 30
        assert output["depth"].shape == size and output["depth"].dtype == torch.float32
        shapes = {
            "pred_classes": (count,),
            "scores": (count,),
            "pred_masks": (count, *size),
            "pred_translations": (count, 3),
            "pred_rotations": (count, 4),
            "pred_scales": (count, 3),
            "pred_nocs": (count, 3, 24, 24),
            "has_alignment": (count,),
            "pred_indices": (count,),
        }
        assert found.get_fields().keys() == shapes.keys() | {"pred_boxes"}
        assert {name: tuple(found.get(name).shape) for name in shapes} == shapes
        assert found.pred_masks.dtype == found.has_alignment.dtype == torch.bool
        assert all(found.get(name).isfinite().all() for name in POSE_FIELDS)
        torch.testing.assert_close(found.pred_rotations.norm(dim=1), torch.ones(count))
        assert (found.pred_rotations[:, 0] >= 0).all()
        # Scene "b" is unknown; in "a" classes 0 to 3 have one model each.
        known = (found.pred_classes < 4) & (record["scene_id"] == "a")
        assert torch.equal(found.pred_indices, torch.where(known, found.pred_classes, -1))
        assert torch.equal(found.has_alignment, known)
        assert "wild_cad_ids" not in output
        assert output["cad_ids"] == [
            (f"synset_{row}", f"model_{row}") if row >= 0 else None
            for row in found.pred_indices.tolist()
        ]


def test_output_at_another_size() -> None:
    model, record = build_roca(), without_targets(make_input(0))
    (small,), (large,) = infer(model, record), infer(model, record | {"height": 160, "width": 300})
    assert large["instances"].image_size == (160, 300)
    assert large["instances"].pred_masks.shape[1:] == (160, 300)
    scale = torch.tensor([300 / WIDTH, 160 / HEIGHT] * 2)
    torch.testing.assert_close(
        large["instances"].pred_boxes.tensor, small["instances"].pred_boxes.tensor * scale
    )
    for name in POSE_FIELDS:
        assert torch.equal(large["instances"].get(name), small["instances"].get(name))
    assert torch.equal(large["depth"], small["depth"])


@pytest.mark.parametrize("wild", [False, True])
def test_no_detection(wild: bool) -> None:
    scenes = {} if wild else {"a": [0]}
    model = build_roca(cad_database=lambda: make_database([0], scenes), score_threshold=0.99)
    for output in infer(model, make_input(0), make_input(2, size=(40, 33), scene="a")):
        found = output["instances"]
        assert len(found) == 0 and output["cad_ids"] == []
        assert found.pred_masks.shape == (0, *found.image_size)
        assert found.pred_rotations.shape == (0, 4) and found.pred_scales.shape == (0, 3)
        assert output["depth"].shape == found.image_size
        assert output.get("wild_cad_ids") == ([] if wild else None)


def test_wild_database_needs_no_scene() -> None:
    """Class 1 has two models, class 2 one, class 4 none."""
    model = build_roca(cad_database=lambda: make_database([1, 2, 1]))
    record = without_targets(make_input(0))
    (output,) = infer(model, record, detected_instances=[detections(1, 2, 4)])
    assert output["cad_ids"] == [None, None, None]
    assert output["wild_cad_ids"][0] in [("synset_1", "model_0"), ("synset_1", "model_2")]
    assert output["wild_cad_ids"][1:] == [("synset_2", "model_1"), None]
    assert output["instances"].has_alignment.tolist() == [True, True, False]


def test_without_database_poses_only() -> None:
    given = detections(1, 2)
    (output,) = infer(build_roca(), make_input(0, scene="a"), detected_instances=[given])
    assert output["cad_ids"] == [None, None]
    assert output["instances"].has_alignment.all()


def test_database_that_does_not_fit_is_refused_each_time() -> None:
    model = build_roca("resnet_resnet+image", cad_database=lambda: make_database([0], {"a": [0]}))
    for _ in range(2):
        with pytest.raises(ValueError, match="needs the voxels"):
            infer(model, make_input(0))
    model.roi_heads.alignment_head.retrieval_head = None
    with pytest.raises(ValueError, match="no retrieval_head"):
        model.set_cad_database(make_database([0]))


def test_database_is_read_once_and_not_for_training() -> None:
    calls = []

    def load() -> CadDatabase:
        calls.append(None)
        return make_database([0])

    model = build_roca(cad_database=load)
    train_step(model, [make_input(1)])
    assert not calls
    infer(model, make_input(0))
    infer(model, make_input(0))
    assert len(calls) == 1


def test_given_detections() -> None:
    """Kept in their order; those below the threshold are dropped."""
    model = build_roca(score_threshold=0.7)
    record = without_targets(make_input(0))
    given = detections(4, 0, 8)  # scores 0.9, 0.75, 0.6
    (output,) = infer(model, record, detected_instances=[given])
    found = output["instances"]
    assert found.pred_classes.tolist() == [4, 0]
    assert torch.equal(found.pred_boxes.tensor, given.pred_boxes.tensor[:2])
    (raw,) = infer(model, record, detected_instances=[given], do_postprocess=False)
    assert raw.pred_masks.shape == (2, 1, 24, 24)
    assert torch.equal(raw.pred_translations, found.pred_translations)


def test_mask_of_few_pixels_has_no_rotation() -> None:
    given, record = detections(4, 0), without_targets(make_input(0))
    rotations = {}
    for threshold in (0.0, 1.0):
        model = build_roca(mask_threshold=threshold)
        (output,) = infer(model, record, detected_instances=[given])
        rotations[threshold] = output["instances"].pred_rotations
        assert output["instances"].pred_translations.isfinite().all()
    assert torch.equal(rotations[1.0], torch.tensor([[1.0, 0, 0, 0]] * 2))
    assert not torch.allclose(rotations[0.0], rotations[1.0], atol=1e-2)


def test_bfloat16() -> None:
    model = build_roca("pointnet_pointnet+image")
    inputs = [make_input(5, retrieval="points"), make_input(0, seed=1, retrieval="points")]
    expected = train_step(model, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train_step(model, inputs)
    assert_finite(model, losses)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32, name
        torch.testing.assert_close(loss, expected[name], rtol=0.1, atol=0.05, msg=name)
    model.set_cad_database(make_database(range(NUM_CLASSES)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (output,) = infer(model, make_input(0), detected_instances=[detections(1, 2)])
    assert output["depth"].dtype == torch.float32 and output["depth"].isfinite().all()
    for name in POSE_FIELDS:
        values = output["instances"].get(name)
        assert values.dtype == torch.float32 and values.isfinite().all()
    assert None not in output["wild_cad_ids"]


def test_squeezed_padding() -> None:
    """Images without padding are not concerned; two sizes in a batch are refused."""
    squeezed, plain = build_roca(squeeze_padding=True), build_roca()
    outputs = [
        infer(model, make_input(0), detected_instances=[detections(1)])[0]
        for model in (squeezed, plain)
    ]
    assert torch.equal(outputs[0]["depth"], outputs[1]["depth"])
    padded = [make_input(2, size=(40, WIDTH), seed=row) for row in range(2)]
    losses = train_step(squeezed, padded)
    assert_finite(squeezed, losses)
    assert losses["loss_image_depth"] != train_step(plain, padded)["loss_image_depth"]
    (output,) = infer(squeezed, padded[0])
    assert output["depth"].shape == (40, WIDTH)
    mixed = [make_input(1), make_input(1, size=(48, 48))]
    with pytest.raises(ValueError, match=r"one size in a batch, got \[\(48, 48\), \(64, 96\)\]"):
        train_step(squeezed, mixed)
    with pytest.raises(ValueError, match="one size in a batch"):
        infer(squeezed, *mixed)
