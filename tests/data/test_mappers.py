"""SceneMapper: images, cameras, maps, poses and references stay one scene."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from data.scene_record import HEIGHT, WIDTH, write_record
from roca_nocs.data.mappers import CocoMapper, SceneMapper
from roca_nocs.data.transforms import CameraRollTransform, ColorJitter, RandomCameraRoll
from roca_nocs.geometry.camera import back_project

EVERYTHING = {"maps": ("depth", "nocs"), "poses": True}


@pytest.fixture
def record(tmp_path: Path) -> dict:
    return write_record(tmp_path)


def pose_error(result: dict) -> float:
    """Largest distance (metres) between a depth pixel and its NOCS value under its pose."""
    points = back_project(result["depth"].double(), result["intrinsics"].double())
    worst = 0.0
    for row in range(len(result["instances"])):
        instance = result["instances"][row]
        mask = result["instance"] == row + 1
        model = result["nocs"].permute(1, 2, 0)[mask].double() * instance.gt_scales.double()
        posed = model @ instance.gt_rotations[0].double().mT + instance.gt_translations.double()
        worst = max(worst, float((posed - points[mask]).norm(dim=1).max()))
    return worst


@pytest.mark.parametrize(
    "augmentations",
    [
        [],
        [T.ResizeShortestEdge((45, 110), sample_style="range")],
        [T.RandomCrop("relative_range", (0.6, 0.6)), ColorJitter()],
        [RandomCameraRoll(8)],
        [T.RandomApply(RandomCameraRoll(8), 0.5), T.Resize((90, 70)), T.PadTransform(1, 2, 3, 4)],
    ],
    ids=["none", "resize", "crop", "roll", "several"],
)
@pytest.mark.parametrize("seed", range(3))
def test_pose_depth_and_nocs_agree(record: dict, augmentations: list, seed: int) -> None:
    np.random.seed(seed)
    result = SceneMapper(True, augmentations=augmentations, **EVERYTHING)(record)
    assert len(result["instances"]) == 2
    # Depth is stored in millimetres; a nearest sample is up to a pixel off: 2.4 m / 40 px.
    tolerance = 0.001 if not augmentations else 0.06
    assert pose_error(result) < tolerance


def test_the_agreement_test_notices_a_pose_that_stays_behind(record: dict) -> None:
    roll = CameraRollTransform(0.15, torch.from_numpy(record["intrinsics"]))
    result = SceneMapper(True, augmentations=[roll], **EVERYTHING)(record)
    plain = SceneMapper(True, augmentations=[], **EVERYTHING)(record)
    result["instances"].gt_rotations = plain["instances"].gt_rotations
    result["instances"].gt_translations = plain["instances"].gt_translations
    assert pose_error(result) > 0.06


def test_fields(record: dict) -> None:
    result = SceneMapper(True, augmentations=[], **EVERYTHING)(record)
    instances = result["instances"]
    assert result["image"].shape == (3, HEIGHT, WIDTH) and result["image"].dtype == torch.uint8
    assert result["intrinsics"].dtype == torch.float32
    assert instances.gt_classes.tolist() == [5, 8]
    assert instances.gt_symmetries.tolist() == [0, 1]
    assert list(instances.gt_cads) == [("03001627", "model_3"), ("03001627", "model_7")]
    assert torch.equal(instances.gt_masks.tensor[1], result["instance"] == 2)
    boxes = instances.gt_masks.get_bounding_boxes().tensor
    assert torch.equal(instances.gt_boxes.tensor, boxes)
    assert torch.allclose(torch.linalg.det(instances.gt_rotations), torch.ones(2))
    assert {"file_name", "image_id", "scene_id", "height", "width"} <= set(result)
    assert len(record["annotations"]) == 2 and "image" not in record


def test_images_without_objects(record: dict) -> None:
    record["annotations"] = []
    result = SceneMapper(True, augmentations=[T.Resize((30, 40))], **EVERYTHING)(record)
    instances = result["instances"]
    assert len(instances) == 0
    assert instances.gt_masks.tensor.shape == (0, 30, 40)
    assert instances.gt_rotations.shape == (0, 3, 3)
    assert not result["instance"].any()


def test_an_object_outside_the_crop_is_left_out(record: dict) -> None:
    left = T.CropTransform(0, 0, 30, HEIGHT, WIDTH, HEIGHT)
    result = SceneMapper(True, augmentations=[left], **EVERYTHING)(record)
    assert result["instances"].gt_classes.tolist() == [5]
    assert set(result["instance"].unique().tolist()) == {0, 1}


def test_inference_reads_the_image_alone(record: dict) -> None:
    for name in ("instance", "depth", "nocs"):
        Path(record[f"{name}_file_name"]).unlink()
    mapper = SceneMapper(False, augmentations=[T.Resize((30, 40))], **EVERYTHING)
    result = mapper(record)
    assert "instances" not in result and result["height"] == HEIGHT
    assert result["intrinsics"][0, 0] == pytest.approx(75 / 2)


def test_image_format(record: dict) -> None:
    images = [
        SceneMapper(False, augmentations=[], image_format=each)(record)["image"]
        for each in ("RGB", "BGR")
    ]
    assert torch.equal(images[0], images[1].flip(0))


@pytest.mark.parametrize(
    "flip", [T.RandomFlip(), T.AugmentationList([T.RandomFlip()]), T.RandomApply(T.RandomFlip())]
)
def test_flips_are_refused_before_training(flip: T.Augmentation) -> None:
    with pytest.raises(ValueError, match="RandomFlip mirrors the image"):
        SceneMapper(True, augmentations=[ColorJitter(), flip], poses=True)
    SceneMapper(True, augmentations=[flip], maps=("depth",))


def test_unknown_map() -> None:
    with pytest.raises(ValueError, match=r"unknown maps \['normals'\]"):
        SceneMapper(True, augmentations=[], maps=("normals",))


def truncate(file_name: str) -> None:
    path = Path(file_name)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("key", ["file_name", "instance_file_name", "depth_file_name"])
@pytest.mark.parametrize("damage", [truncate, lambda name: Path(name).unlink()])
def test_damaged_files_are_named(record: dict, key: str, damage) -> None:
    damage(record[key])
    with pytest.raises(ValueError, match=r"record image_id=11, file .*color\.png: ") as caught:
        SceneMapper(True, augmentations=[], **EVERYTHING)(record)
    assert record[key] in str(caught.value)


def test_other_errors_name_the_record(record: dict) -> None:
    del record["annotations"][1]["q"]
    with pytest.raises(ValueError, match=r"image_id=11.*no 'q'; this dataset has no poses"):
        SceneMapper(True, augmentations=[], poses=True)(record)
    with pytest.raises(ValueError, match=r"image_id=11.*has no depth_full maps"):
        SceneMapper(True, augmentations=[], maps=("depth_full",))(record)
    cv2.imwrite(record["instance_file_name"], np.zeros((10, 10), np.uint8))
    with pytest.raises(ValueError, match=r"image_id=11.*instance map is 10x10, the image 80x60"):
        SceneMapper(True, augmentations=[])(record)
    cv2.imwrite(record["depth_file_name"], np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(ValueError, match="one channel of 16 bits, got 1 x 8 bits"):
        SceneMapper(True, augmentations=[], maps=("depth",))(record)


@pytest.mark.parametrize(
    "value", [None, "unknown", np.eye(4), np.full((3, 3), np.nan), np.diag([75.0, -75.0, 1])]
)
@pytest.mark.parametrize("is_train", [True, False])
def test_a_camera_is_needed(record: dict, value: object, is_train: bool) -> None:
    record["intrinsics"] = value
    mapper = SceneMapper(is_train, augmentations=[])
    with pytest.raises(ValueError, match=r"image_id=11.*'intrinsics' is .*; expected the 3x3"):
        mapper(record)
    del record["intrinsics"]
    with pytest.raises(ValueError, match=r"image_id=11.*'intrinsics' is None; expected the 3x3"):
        mapper(record)


def test_unknown_symmetry_names_the_record(record: dict) -> None:
    record["annotations"][0]["sym"] = "__SYM_3"
    with pytest.raises(ValueError, match=r"image_id=11.*unknown symmetry tags \['__SYM_3'\]"):
        SceneMapper(True, augmentations=[], poses=True)(record)


def test_coco_mapper_names_the_record(record: dict) -> None:
    truncate(record["file_name"])
    mapper = CocoMapper(True, augmentations=[], image_format="RGB")
    with pytest.raises(ValueError, match=r"record image_id=11, file .*color\.png"):
        mapper(record)
