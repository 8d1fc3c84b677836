"""Mono3DMapper: everything follows the image, labels of mirrored scenes, bad records."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.mono3d_mapper import Mono3DMapper, transform_projection
from roca_nocs.data.mono3d_priors import dataset_priors
from roca_nocs.data.transforms import ColorJitter
from roca_nocs.geometry.cuboids import alpha_from_rotation_y, box_corners, rotation_from_yaw
from roca_nocs.geometry.projection import project_box, project_points
from roca_nocs.geometry.yaw_bins import wrap_angle

HEIGHT, WIDTH = 60, 160
PROJECTION = np.array([[110.0, 0, 71, 4.0], [0, 105, 27, -2], [0, 0, 1, 0.003]])


def annotation(
    center: tuple[float, float, float],
    dimensions: tuple[float, float, float],
    rotation_y: float,
    category_id: int = 0,
    **other: Any,
) -> dict[str, Any]:
    """An upright box as datasets annotate it; its 2D box is that of its projection."""
    middle, size = torch.tensor([center, dimensions], dtype=torch.float64)
    angle = torch.tensor(rotation_y, dtype=torch.float64)
    corners = box_corners(middle, size, rotation_from_yaw(angle))
    box = project_box(corners, torch.from_numpy(PROJECTION))
    return {
        "bbox": box.tolist(),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": category_id,
        "iscrowd": 0,
        "center": list(center),
        "dimensions": list(dimensions),
        "rotation": rotation_from_yaw(angle).tolist(),
        "rotation_y": rotation_y,
        "alpha": float(alpha_from_rotation_y(angle, middle)),
        "has3d": True,
        **other,
    }


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return {
        "layout": "kitti",
        "file_name": str(tmp_path / "image.png"),
        "height": HEIGHT,
        "width": WIDTH,
        "image_id": 7,
        "scene_id": "000007",
        "projection": PROJECTION,
        "intrinsics": PROJECTION[:, :3],
        "annotations": [
            annotation((-2.0, 0.9, 12.0), (1.6, 1.5, 3.9), 0.4),
            annotation((3.0, 0.8, 18.0), (0.6, 1.75, 0.8), -math.pi, 1),
        ],
        "ignore_boxes": [[100.0, 10.0, 130.0, 25.0]],
    }


def check_instances(result: dict[str, Any]) -> None:
    """The fields describe one scene, seen through the projection of the result."""
    instances, projection = result["instances"], result["projection"].double()
    centers = instances.gt_centers.double()
    pixels, depths = project_points(centers, projection)
    torch.testing.assert_close(instances.gt_center_2d.double(), pixels, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(instances.gt_depths.double(), depths, atol=1e-4, rtol=1e-5)
    yaw = instances.gt_rotation_y.double()
    rotation = rotation_from_yaw(yaw)
    torch.testing.assert_close(instances.gt_rotations.double(), rotation, atol=1e-5, rtol=0)
    alpha = alpha_from_rotation_y(yaw, centers)
    difference = wrap_angle(instances.gt_alpha.double() - alpha)
    torch.testing.assert_close(difference, torch.zeros_like(alpha), atol=1e-5, rtol=0)
    corners = box_corners(centers, instances.gt_dimensions.double(), rotation)
    boxes = project_box(corners, projection)
    height, width = instances.image_size
    limit = torch.tensor([width, height, width, height])
    clipped = boxes.clamp(min=0).minimum(limit)
    torch.testing.assert_close(instances.gt_boxes.tensor.double(), clipped, atol=1e-2, rtol=1e-3)


def test_fields(record: dict[str, Any]) -> None:
    result = Mono3DMapper(True, augmentations=[])(record)
    assert result["image"].shape == (3, HEIGHT, WIDTH) and result["image"].dtype == torch.uint8
    assert (result["image_id"], result["scene_id"], result["height"]) == (7, "000007", HEIGHT)
    torch.testing.assert_close(result["projection"], torch.from_numpy(PROJECTION).float())
    instances = result["instances"]
    assert instances.gt_classes.tolist() == [0, 1] and instances.gt_has3d.tolist() == [True, True]
    torch.testing.assert_close(instances.gt_dimensions[1], torch.tensor([0.6, 1.75, 0.8]))
    torch.testing.assert_close(result["ignore_boxes"], torch.tensor(record["ignore_boxes"]))
    check_instances(result)
    assert "annotations" not in result


@given(
    width=st.integers(40, 300),
    height=st.integers(20, 200),
    flip=st.booleans(),
    x=st.integers(0, 30),
    y=st.integers(0, 10),
    yaw=st.floats(-math.pi, math.pi, exclude_max=True),
    across=st.floats(-3, 3),
)
@settings(max_examples=25, deadline=None)
def test_everything_follows_the_image(
    tmp_path_factory: pytest.TempPathFactory,
    width: int,
    height: int,
    flip: bool,
    x: int,
    y: int,
    yaw: float,
    across: float,
) -> None:
    path = tmp_path_factory.getbasetemp() / "black.png"
    if not path.exists():
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    record = {
        "file_name": str(path),
        "height": HEIGHT,
        "width": WIDTH,
        "projection": PROJECTION,
        "annotations": [annotation((across, 0.9, 11.0), (1.6, 1.5, 3.9), yaw)],
    }
    steps: list[T.Transform | T.Augmentation] = [
        T.CropTransform(x, y, WIDTH - 30, HEIGHT - 10, WIDTH, HEIGHT),
        T.Resize((height, width)),
        ColorJitter(),
        T.RandomFlip(prob=float(flip)),
    ]
    result = Mono3DMapper(True, augmentations=steps)(record)
    assert result["image"].shape == (3, height, width)
    if len(result["instances"]):
        check_instances(result)
        sign = -1 if flip else 1
        (found,) = result["instances"].gt_centers.tolist()
        assert found == pytest.approx([sign * across, 0.9, 11.0])
        expected = math.pi - yaw if flip else yaw
        angle = result["instances"].gt_rotation_y[0].double() - expected
        assert abs(float(wrap_angle(angle))) < 1e-5


def test_full_rotations_follow_a_flip(record: dict[str, Any]) -> None:
    """The corners of the mirrored box are those of the box, mirrored."""
    random = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=random, dtype=torch.float64))[0]
    rotation = rotation * rotation.det()
    record["annotations"] = [
        annotation((1.0, 0.5, 9.0), (1.0, 0.7, 2.0), 0.0, rotation=rotation.tolist())
    ]
    flip = T.HFlipTransform(WIDTH)
    instances = Mono3DMapper(True, augmentations=[flip])(record)["instances"]
    center = torch.tensor([1.0, 0.5, 9.0], dtype=torch.float64)
    size = torch.tensor([1.0, 0.7, 2.0], dtype=torch.float64)
    corners = box_corners(center, size, rotation) * torch.tensor([-1, 1, 1])
    found = box_corners(
        instances.gt_centers[0], instances.gt_dimensions[0], instances.gt_rotations[0]
    )
    order = torch.cdist(corners, found.double()).min(dim=1)
    assert order.values.max() < 1e-5 and sorted(order.indices.tolist()) == list(range(8))
    assert instances.gt_rotations[0].det() == pytest.approx(1, abs=1e-5)


def test_boxes_that_have_no_use_in_3d(record: dict[str, Any]) -> None:
    behind = annotation((1.0, 1.0, -4.0), (1.6, 1.5, 3.9), 0.0, bbox=[0.0, 0, 20, 20])
    unknown = annotation((1.0, 1.0, 8.0), (1.6, 1.5, 3.9), 0.0, has3d=False)
    unknown |= {"center": [-1000.0] * 3, "dimensions": [-1.0] * 3, "rotation_y": -10.0}
    outside = annotation((1.0, 1.0, 8.0), (1.6, 1.5, 3.9), 0.0, bbox=[200.0, 0, 220, 20])
    crowd = annotation((1.0, 1.0, 8.0), (1.6, 1.5, 3.9), 0.0, iscrowd=1)
    record["annotations"] += [behind, unknown, outside, crowd]
    instances = Mono3DMapper(True, augmentations=[T.RandomFlip(prob=1.0)])(record)["instances"]
    assert instances.gt_has3d.tolist() == [True, True, False, False]
    for name, values in instances.get_fields().items():
        if isinstance(values, torch.Tensor):
            assert values.isfinite().all(), name


def test_images_without_objects(record: dict[str, Any]) -> None:
    record.update(annotations=[], ignore_boxes=[])
    result = Mono3DMapper(True, augmentations=[T.RandomFlip(prob=1.0)])(record)
    assert len(result["instances"]) == 0
    assert result["instances"].gt_rotations.shape == (0, 3, 3)
    assert result["ignore_boxes"].shape == (0, 4)


def test_regions_to_ignore_follow_the_image(record: dict[str, Any]) -> None:
    record["ignore_boxes"].append([10.0, 5.0, 20.0, 15.0])
    crop = T.CropTransform(30, 0, 100, HEIGHT, WIDTH, HEIGHT)
    result = Mono3DMapper(True, augmentations=[crop, T.HFlipTransform(100)])(record)
    assert result["ignore_boxes"].tolist() == [[0.0, 10.0, 30.0, 25.0]]


def test_records_at_inference(record: dict[str, Any]) -> None:
    mapper = Mono3DMapper(False, augmentations=[T.Resize((30, 80))])
    result = mapper(record)
    assert "instances" not in result and result["height"] == HEIGHT
    torch.testing.assert_close(result["projection"][:2], torch.tensor(PROJECTION[:2] / 2).float())
    del record["projection"]
    without_offset = PROJECTION * [1, 1, 1, 0]
    torch.testing.assert_close(
        mapper(record)["projection"][:2], torch.tensor(without_offset[:2] / 2).float()
    )
    del record["intrinsics"], record["annotations"]
    assert "projection" not in mapper(record)


def test_bad_records(record: dict[str, Any]) -> None:
    mapper = Mono3DMapper(True, augmentations=[])
    missing = {key: x for key, x in record.items() if key not in ("projection", "intrinsics")}
    with pytest.raises(ValueError, match=r"image\.png.*no calibration.*'projection'"):
        mapper(missing)
    for bad in (np.zeros((3, 4)), np.eye(3), "P2", PROJECTION * np.nan):
        with pytest.raises(ValueError, match=r"image\.png.*'projection' is.*3x4"):
            mapper(record | {"projection": bad})
    incomplete = {key: x for key, x in record["annotations"][0].items() if key != "rotation"}
    with pytest.raises(ValueError, match=r"image_id=7.*image\.png.*no 'rotation'"):
        mapper(record | {"annotations": [incomplete]})
    with pytest.raises(TypeError, match="VFlipTransform"):
        transform_projection(T.VFlipTransform(HEIGHT), torch.from_numpy(PROJECTION))


def test_priors(record: dict[str, Any]) -> None:
    cars = [annotation((0.0, 0.9, z), (1.6, 1.5, 3.9), 0.1) for z in (8.0, 10, 12, 14, 16)]
    behind = annotation((0.0, 0.9, -9.0), (9.0, 9, 9), 0.0, bbox=[0.0, 0, 9, 9])
    unknown = annotation((0.0, 0.9, 9.0), (9.0, 9, 9), 0.0, has3d=False)
    records = [
        record | {"annotations": [*cars[:3], behind]},
        record | {"annotations": []},
        record | {"annotations": [*cars[3:], unknown], "image_id": 8},
    ]
    name = "mono3d_priors_test"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["car", "tram"])
    try:
        found = dataset_priors(name, shortest_side=2 * HEIGHT, num_clusters=2)
        torch.testing.assert_close(found.dimensions[0], torch.tensor([1.6, 1.5, 3.9]))
        torch.testing.assert_close(found.dimensions[1], torch.ones(3))
        # The focal length of the network's image is twice that of the file's.
        depths = torch.tensor([8.0, 10, 12, 14, 16]) + 0.003
        expected = depths.log().mean().exp() * 512 / (2 * PROJECTION[1, 1])
        torch.testing.assert_close(found.depth[0], expected.float())
        assert found.cluster_scales.shape == (2, 2)
        metric = dataset_priors(name, virtual_focal=None)
        torch.testing.assert_close(metric.depth[0], depths.log().mean().exp())
        records[:] = [record | {"annotations": [unknown]}]
        with pytest.raises(DatasetError, match="no 3D box"):
            dataset_priors(name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
