"""Reader of Habitat sequences, and multi-view samples, on scenes written in its layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.habitat_files import tabletop_views, write_scene
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.habitat import load_habitat
from roca_nocs.data.datasets.nocs import load_nocs
from roca_nocs.data.loader import build_train_loader
from roca_nocs.data.maps import read_map
from roca_nocs.data.multiview import (
    JointLoader,
    MultiViewMapper,
    ViewMapper,
    build_joint_loader,
    group_views,
)
from roca_nocs.data.synthetic.types import Scene, View
from roca_nocs.data.transforms import RandomCameraRoll
from roca_nocs.geometry.camera import back_project
from roca_nocs.geometry.multiview import Views, associate, ordered_pairs
from roca_nocs.geometry.rotation import quaternion_to_matrix

SIZE = (90, 120)
VIEWS = 3


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Scene, list[View]]]:
    return [tabletop_views(index, VIEWS, SIZE) for index in (0, 1)]


@pytest.fixture(scope="module")
def folder(drawn: list[tuple[Scene, list[View]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("habitat")
    for number, (scene, views) in enumerate(drawn):
        write_scene(root / "train" / "floor" / f"scene{number}", scene, views)
    return root


@pytest.fixture(scope="module")
def records(folder: Path) -> list[dict[str, Any]]:
    return load_habitat(folder, "train")


def test_records(records: list[dict[str, Any]], drawn: list[tuple[Scene, list[View]]]) -> None:
    assert len(records) == 2 * VIEWS
    assert [record["scene_id"] for record in records] == (
        ["floor/scene0"] * VIEWS + ["floor/scene1"] * VIEWS
    )
    assert len({record["image_id"] for record in records}) == len(records)
    views = [view for _, views in drawn for view in views]
    for record, view in zip(records, views, strict=True):
        np.testing.assert_allclose(
            record["camera_pose"], np.linalg.inv(view.world_to_camera), atol=1e-9
        )
        instance = read_map(record, "instance")
        for annotation in record["annotations"]:
            rows, columns = np.nonzero(instance == annotation["alignment_id"])
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert annotation["bbox"] == box
            assert annotation["category_id"] == 0
    scene = drawn[0][0]
    classes = {index + 1 for index, placed in enumerate(scene.objects) if placed.annotated}
    found = {a["alignment_id"] for record in records[:VIEWS] for a in record["annotations"]}
    assert found and found <= classes


def test_pose_and_map_explain_depth(records: list[dict[str, Any]]) -> None:
    """Axes, channels, scale and frames all have to be right for this."""
    checked = 0
    for record in records:
        nocs, instance = read_map(record, "nocs"), read_map(record, "instance")
        depth = torch.from_numpy(read_map(record, "depth")).double()
        points = back_project(depth, torch.from_numpy(record["intrinsics"]))
        for annotation in record["annotations"]:
            mask = instance == annotation["alignment_id"]
            rotation = quaternion_to_matrix(torch.tensor(annotation["q"], dtype=torch.float64))
            model = torch.from_numpy(nocs[mask]).double() * annotation["s"][0]
            moved = model @ rotation.T + torch.tensor(annotation["t"], dtype=torch.float64)
            error = (moved - points[mask]).norm(dim=1)
            # Eight bits a coordinate, millimetres of depth.
            assert error.max() < annotation["s"][0] * 2 / 255 + 2e-3
            extents = np.abs(nocs[mask]).max(axis=0) * 2
            assert (extents <= np.array(annotation["extents"]) + 2 / 255).all()
            checked += len(error)
    assert checked > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(source="replica"), "'source' is 'replica'"),
        (lambda data: data["meta"].update(hfov=90.0), "focal length"),
        (lambda data: data["meta"].update(img_format="npy"), "img_format"),
        (lambda data: data["episodes"][1].pop("mask"), "episode 1"),
        (lambda data: first_object(data).update(semantic_id=77), "no line in _meta.txt"),
        (lambda data: first_object(data).update(bbox={"min": [0] * 3, "max": [1, 0, 1]}), "bbox"),
        (lambda data: first_object(data).update(world_T_rgb=[[1.0]]), "world_T_rgb"),
    ],
)
def test_bad_files(folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    source = folder / "train" / "floor" / "scene0"
    target = tmp_path / "train" / "scene"
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).symlink_to(file)
    data = json.loads((source / "metadata.json").read_text())
    change(data)
    (target / "metadata.json").unlink()
    (target / "metadata.json").write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=message):
        load_habitat(tmp_path, "train")


def first_object(data: dict[str, Any]) -> dict[str, Any]:
    return next(iter(data["episodes"][0]["objects"].values()))


def test_missing_split(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"metadata\.json"):
        load_habitat(folder, "val")


@pytest.mark.parametrize("frame", ["world", "object"])
def test_views_see_the_same_points(records: list[dict[str, Any]], frame: str) -> None:
    """Pixels that camera poses and depth associate have the same object coordinates."""
    groups = group_views(records, frame)
    mapper = ViewMapper()
    compared = 0
    for group in groups:
        samples = [mapper(view) for view in group["views"]]
        nocs = [torch.from_numpy(read_map(view, "nocs")) for view in group["views"]]
        views = Views(
            depth=torch.stack([sample["depth"] for sample in samples]),
            intrinsics=torch.stack([sample["intrinsics"] for sample in samples]),
            camera_poses=torch.stack([sample["camera_pose"] for sample in samples]),
            scenes=torch.zeros(len(samples), dtype=torch.int64),
        )
        masks = torch.stack([sample["instance"] for sample in samples]) > 0
        pairs = ordered_pairs(views.scenes, 100)
        found = associate(views, masks, pairs, tolerance=0.005)
        maps = torch.stack(nocs)
        view = pairs[found.pairs]
        first = maps[(view[:, 0], *found.first.unbind(1))]
        second = maps[(view[:, 1], *found.second.unbind(1))]
        distance = (first - second).norm(dim=1)
        assert distance.median() < 0.05
        compared += len(distance)
    assert compared > 200


def test_object_frame_knows_moved_objects(records: list[dict[str, Any]]) -> None:
    """The relative pose of two cameras does not depend on where a still object stands."""
    world, relative = (group_views(records[:VIEWS], frame)[0] for frame in ("world", "object"))
    poses = {view["image_id"]: view["camera_pose"] for view in world["views"]}
    first, second, *_ = relative["views"]
    by_object = np.linalg.inv(second["camera_pose"]) @ first["camera_pose"]
    by_world = np.linalg.inv(poses[second["image_id"]]) @ poses[first["image_id"]]
    np.testing.assert_allclose(by_object, by_world, atol=1e-6)


def test_embedded_tables_are_multi_view(embedded_root: Path) -> None:
    groups = group_views(load_nocs(embedded_root / "tabletop_tiny", "real", "test"), "object")
    assert len(groups) >= 2
    assert all(len(group["views"]) > 1 for group in groups)


def test_camera_roll_turns_the_pose(records: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    record = records[0]
    rolled = ViewMapper(augmentations=[RandomCameraRoll(20.0)])(record)
    plain = ViewMapper()(record)
    assert not torch.allclose(rolled["camera_pose"], plain["camera_pose"])
    world = [
        back_project(sample["depth"].double(), sample["intrinsics"].double())
        @ sample["camera_pose"][:3, :3].T
        + sample["camera_pose"][:3, 3]
        for sample in (rolled, plain)
    ]
    # Object by object, the points of the scene stay where they are.
    for number in plain["instance"].unique()[1:]:
        means = [
            points[(sample["instance"] == number) & (sample["depth"] > 0)].mean(dim=0)
            for points, sample in zip(world, (rolled, plain), strict=True)
        ]
        if (rolled["instance"] == number).sum() > 0.98 * (plain["instance"] == number).sum():
            torch.testing.assert_close(*means, atol=5e-3, rtol=0)


def test_mirrored_views_are_refused() -> None:
    from detectron2.data import transforms as T

    with pytest.raises(ValueError, match="mirror"):
        ViewMapper(augmentations=[T.RandomFlip(horizontal=True)])


def joint_loader(records: list[dict[str, Any]], batch: int, scenes: int) -> JointLoader:
    groups = group_views(records, "world")
    multiview = build_train_loader(
        groups,
        mapper=MultiViewMapper(ViewMapper(), num_views=2),
        total_batch_size=scenes,
        aspect_ratio_grouping=False,
        seed=2,
    )
    return build_joint_loader(
        multiview=multiview,
        dataset=records,
        mapper=ViewMapper(),
        total_batch_size=batch,
        seed=1,
    )


def test_joint_loader_spreads_scenes_and_resumes(records: list[dict[str, Any]]) -> None:
    def contents(batch: list[dict[str, Any]]) -> list[Any]:
        return [
            (each["image_id"], [view["image_id"] for view in each.get("views", ())])
            for each in batch
        ]

    loader = joint_loader(records, 4, 2)
    stream = iter(loader)
    seen = [contents(next(stream)) for _ in range(3)]
    assert [bool(views) for _, views in seen[0]] == [True, False, True, False]
    assert all(len(set(views)) == 2 for batch in seen for _, views in batch if views)
    state = loader.state_dict()
    following = contents(next(stream))
    again = joint_loader(records, 4, 2)
    again.load_state_dict(state)
    assert contents(next(iter(again))) == following


def test_more_scenes_than_images(records: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="total_batch_size"):
        next(iter(joint_loader(records, 1, 2)))


def test_grouping_needs_views(records: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="camera pose"):
        group_views(records[:1])
    with pytest.raises(ValueError, match="frame must be"):
        group_views(records, "camera")
    with pytest.raises(ValueError, match="scene_id"):
        group_views([{"file_name": "a.png"}])
