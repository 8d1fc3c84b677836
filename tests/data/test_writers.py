"""The writers on a hand-made scene and frame: every byte can be told beforehand."""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import trimesh

from roca_nocs.data.datasets.nocs_frames import NocsFrame
from roca_nocs.data.datasets.nocs_models import recentring_of
from roca_nocs.data.synthetic.encoding import image_bytes, millimetres
from roca_nocs.data.synthetic.manifest import FileWriter, content_hash
from roca_nocs.data.synthetic.models import build_model
from roca_nocs.data.synthetic.types import (
    CadModel,
    Frame,
    Lighting,
    Material,
    PlacedObject,
    Scene,
    View,
)
from roca_nocs.data.synthetic.write_rooms import (
    pose_fields,
    scene_name,
    write_room_annotations,
    write_view,
)
from roca_nocs.data.synthetic.write_tabletop import (
    encode_coordinates,
    encode_depth,
    handle_visible,
    write_camera_model,
    write_frame,
)

HEIGHT, WIDTH = 20, 30
# Quarter turn about the vertical: model x points along camera -z, model z along camera x.
TURN = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])


def place(category: str, scale: tuple[float, float, float], annotated: bool = True) -> PlacedObject:
    model = build_model(category, 0)
    material = Material(np.ones(3, np.float32))
    return PlacedObject(
        model=model,
        rotation=TURN,
        scale=np.array(scale),
        translation=np.array([0.1, 0.2, 2.0]),
        materials=(material,) * len(model.part_names),
        annotated=annotated,
    )


def make_scene(*objects: PlacedObject) -> Scene:
    light = Lighting(np.zeros(3), 1.0, np.array([0.0, 0, 1]), 1.0, 0.5, 1.0)
    return Scene("by hand", objects, (), light, (0,))


def make_view() -> View:
    intrinsics = np.array([[25.0, 0, 14.5], [0, 25, 9.5], [0, 0, 1]])
    return View(intrinsics, np.eye(4), (HEIGHT, WIDTH), 0)


def make_frame(count: int) -> Frame:
    """Object i covers the columns 8 i .. 8 i + 5 of the rows 4 .. 13; the wall is 4 m away."""
    instance = np.zeros((HEIGHT, WIDTH), np.uint8)
    depth = np.full((HEIGHT, WIDTH), 4, np.float32)
    nocs = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for number in range(count):
        area = np.s_[4:14, 8 * number : 8 * number + 6]
        instance[area] = number + 1
        depth[area] = 1.2345 + number
        nocs[area] = (0.5, -0.25, 0.1)
    pixels = np.full(count, 60, np.int64)
    boxes = np.zeros((count, 4), np.float32)
    return Frame(
        rgb=np.full((HEIGHT, WIDTH, 3), (200, 100, 50), np.uint8),
        depth=depth,
        instance=instance,
        nocs=nocs,
        normals=np.zeros((HEIGHT, WIDTH, 3), np.float32),
        amodal_masks=np.stack([instance == i + 1 for i in range(count)])
        if count
        else np.zeros((0, HEIGHT, WIDTH), bool),
        amodal_boxes=boxes,
        visible_boxes=boxes,
        visible_pixels=pixels,
        visibility=np.full(count, 0.5, np.float32),
        truncation=np.full(count, 0.25, np.float32),
    )


def decode(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.fixture
def writer(tmp_path: Path) -> FileWriter:
    return FileWriter(tmp_path)


@pytest.fixture
def room(writer: FileWriter) -> dict[str, Any]:
    """A chair, an unlabelled ball, a table, written as frame 100 of a room."""
    scene = make_scene(
        place("chair", (0.9, 1.0, 1.1)),
        place("ball", (0.3, 0.3, 0.3), annotated=False),
        place("table", (1.5, 1.5, 1.5)),
    )
    return write_view(writer, "scene0042_00", 100, scene, make_view(), make_frame(3))


def test_room_maps_know_annotated_objects_only(room: dict[str, Any], tmp_path: Path) -> None:
    maps = {
        kind: decode(tmp_path / "Rendering" / "scene0042_00" / kind / "000100.png")
        for kind in ("instance", "depth", "depth_full", "noc")
    }
    assert [str(maps[kind].dtype) for kind in maps] == ["uint8", "uint16", "uint16", "uint16"]
    row = maps["instance"][8]
    # The ball is object 2 of the scene but has no alignment id.
    assert row[[0, 8, 16, 24]].tolist() == [1, 0, 2, 0]
    # 1.2345 m as float32 lies just below; 2.2345 m belongs to the ball.
    assert maps["depth"][8, [0, 8, 16, 24]].tolist() == [1234, 0, 3234, 0]
    assert maps["depth_full"][8, [0, 8, 16, 24]].tolist() == [1234, 2234, 3234, 4000]
    assert maps["noc"][8, 0].tolist() == [15000, 7500, 11000]
    assert maps["noc"][8, 8].tolist() == maps["noc"][0, 0].tolist() == [10000] * 3


def test_room_image_and_pose(room: dict[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "Images" / "tasks" / "scannet_frames_25k" / "scene0042_00"
    color = decode(base / "color" / "000100.jpg")
    np.testing.assert_allclose(color[0, 0], (50, 100, 200), atol=4)  # OpenCV: blue first
    assert np.loadtxt(base / "pose" / "000100.txt").tolist() == np.eye(4).tolist()
    assert room["file_name"] == "tasks/scannet_frames_25k/scene0042_00/color/000100.jpg"


def test_room_annotations(room: dict[str, Any]) -> None:
    chair, table = room["annotations"]
    assert (chair["alignment_id"], table["alignment_id"]) == (1, 2)
    assert (chair["category_id"], table["category_id"]) == (5, 8)
    assert chair["bbox"] == [0, 4, 6, 10] and chair["area"] == 60
    assert table["bbox"] == [16, 4, 6, 10]
    assert chair["s"] == [0.9, 1.0, 1.1] and chair["t"] == [0.1, 0.2, 2.0]
    half = np.sqrt(0.5)
    np.testing.assert_allclose(chair["q"], [half, 0, half, 0], atol=1e-8)
    assert chair["model"] == {
        "scene_id": "scene0042_00",
        "catid_cad": "03001627",
        "id_cad": "chair_v00",
        "idx": 1,
    }
    assert (chair["visibility"], chair["truncation"]) == (0.5, 0.25)
    assert isinstance(chair["segmentation"]["counts"], str)


def test_small_objects_are_drawn_but_not_annotated(writer: FileWriter, tmp_path: Path) -> None:
    frame = make_frame(1)
    instance = np.zeros_like(frame.instance)
    instance[3, 3] = 1
    # 0.25 % of 20 x 30 pixels are 1.5.
    frame = dataclasses.replace(frame, instance=instance, visible_pixels=np.array([1]))
    scene = make_scene(place("chair", (1, 1, 1)))
    record = write_view(writer, "s", 0, scene, make_view(), frame)
    assert record["annotations"] == []
    assert decode(tmp_path / "Rendering/s/instance/000000.png")[3, 3] == 1


def test_frame_without_objects(writer: FileWriter) -> None:
    record = write_view(writer, "s", 0, make_scene(), make_view(), make_frame(0))
    assert record["annotations"] == []


def test_pose_in_another_frame() -> None:
    # A camera 3 m above the world's origin that looks straight down, its x along the world's x.
    world_to_camera = np.eye(4)
    world_to_camera[:3] = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 3]]
    fields = pose_fields(place("chair", (1, 1, 1)), world_to_camera)
    np.testing.assert_allclose(fields["t"], [0.1, -0.2, 1.0])
    assert fields["q"][0] >= 0 and np.linalg.norm(fields["q"]) == pytest.approx(1)


def test_scene_names_are_unique_over_splits() -> None:
    names = {scene_name(s, i) for s in ("train", "val", "val_seen") for i in range(50)}
    assert len(names) == 150 and scene_name("val", 0) == "scene0001_00"


def test_annotation_file_counts_ids_from_one(
    writer: FileWriter, room: dict[str, Any], tmp_path: Path
) -> None:
    scene = {"scene_id": "scene0042_00", "images": [room, room], "models": [{"idx": 1}]}
    write_room_annotations(writer, {"train": [scene], "val": [scene], "val_seen": []})
    folder = tmp_path / "Dataset"
    data = json.loads((folder / "scan2cad_instances_val.json").read_text())
    assert [image["id"] for image in data["images"]] == [1, 2]
    assert [(a["id"], a["image_id"]) for a in data["annotations"]] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
    ]
    assert [category["id"] for category in data["categories"]] == list(range(9))
    assert json.loads((folder / "scan2cad_val_scenes.json").read_text()) == {
        "scene0042_00": [{"idx": 1}]
    }
    assert not (folder / "scan2cad_train_scenes.json").exists()
    assert json.loads((folder / "scan2cad_instances_val_seen.json").read_text())["images"] == []
    assert json.loads((folder / "scan2cad_alignment_classes.json").read_text())[0] == "bathtub"


def test_files_are_listed_with_size_and_hash(writer: FileWriter, room: dict[str, Any]) -> None:
    assert len(writer.files) == 6
    for name, (size, digest) in writer.files.items():
        content = (writer.root / name).read_bytes()
        assert len(content) == size and content_hash(content) == digest


def write_table_frame(
    writer: FileWriter, dataset: str, split: str, two_bytes: bool
) -> tuple[NocsFrame, Scene]:
    place_of_frame = NocsFrame(writer.root, dataset, split, "00000", "0003")
    scene = make_scene(
        place("mug", (0.2, 0.2, 0.2)),
        place("ball", (0.1, 0.1, 0.1), annotated=False),
        place("bottle", (0.3, 0.3, 0.3)),
    )
    write_frame(writer, place_of_frame, scene, make_view(), make_frame(3), two_bytes)
    return place_of_frame, scene


@pytest.mark.parametrize("two_bytes", [False, True])
def test_camera_frame(writer: FileWriter, two_bytes: bool) -> None:
    frame, _ = write_table_frame(writer, "camera", "val", two_bytes)
    mask = decode(frame.path("mask.png"))
    assert mask[8, [0, 8, 16, 24]].tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 3], [255] * 3]
    # x = 0.5, y = -0.25, z = 0.1: red 255, green 64, blue 102 = 255 (1 - 0.6).
    assert decode(frame.path("coord.png"))[8, 0].tolist() == [102, 64, 255]
    assert decode(frame.path("coord.png"))[0, 0].tolist() == [255] * 3
    assert frame.path("meta.txt").read_text() == (
        "1 6 03797390 mug_v00\n2 0 00000000 ball_v00\n3 1 02876657 bottle_v00\n"
    )
    composed = writer.root / "camera_full_depths/val/00000/0003_composed.png"
    for path, expected in (
        (frame.path("depth.png"), [1234, 2234, 3234, 0]),
        (composed, [1234, 2234, 3234, 4000]),
    ):
        depth = decode(path)
        assert depth.shape == ((HEIGHT, WIDTH, 3) if two_bytes else (HEIGHT, WIDTH))
        values = depth[8, [0, 8, 16, 24]].astype(int)
        if two_bytes:
            values = values[:, 1] * 256 + values[:, 2]
        assert values.tolist() == expected


def test_poses_of_a_frame(writer: FileWriter) -> None:
    frame, scene = write_table_frame(writer, "camera", "val", False)
    with np.load(frame.path("pose.npz")) as arrays:
        assert arrays["instance_ids"].tolist() == [1, 3]
        np.testing.assert_allclose(arrays["scales"], [0.2, 0.3])
        np.testing.assert_allclose(arrays["rotations"], [TURN, TURN])
        np.testing.assert_allclose(arrays["translations"], [scene.objects[0].translation] * 2)
    path = writer.root / "gts/val/results_val_00000_0003.pkl"
    content = pickle.loads(path.read_bytes())
    assert content["gt_RTs"].shape == (2, 4, 4)
    np.testing.assert_allclose(content["gt_RTs"][0, :3, :3], 0.2 * TURN)
    assert content["handle_visibility"].shape == (2,)


def test_real_frame_has_full_depth_and_names(writer: FileWriter) -> None:
    frame, _ = write_table_frame(writer, "real", "train", False)
    assert decode(frame.path("depth.png"))[8, [0, 24]].tolist() == [1234, 4000]
    assert frame.path("meta.txt").read_text().splitlines()[0] == "1 6 mug_v00_00000_1"
    assert not (writer.root / "gts").exists()
    assert not (writer.root / "camera_full_depths").exists()


def test_frames_that_the_format_cannot_hold(writer: FileWriter) -> None:
    frame_place = NocsFrame(writer.root, "camera", "train", "00000", "0000")
    full = dataclasses.replace(make_frame(1), instance=np.ones((HEIGHT, WIDTH), np.uint8))
    mug = place("mug", (0.2, 0.2, 0.2))
    with pytest.raises(ValueError, match="no background pixel"):
        write_frame(writer, frame_place, make_scene(mug), make_view(), full, False)
    with pytest.raises(ValueError, match="20 objects; a mask holds 19"):
        write_frame(writer, frame_place, make_scene(*[mug] * 20), make_view(), full, False)
    stretched = make_scene(place("mug", (0.2, 0.2, 0.3)))
    with pytest.raises(ValueError, match=r"mug_v00: the scale .* is not uniform"):
        write_frame(writer, frame_place, stretched, make_view(), make_frame(1), False)


def test_depth_out_of_range_is_refused() -> None:
    assert millimetres(np.array([65.535])).tolist() == [65535]
    with pytest.raises(ValueError, match=r"66\.0 m does not fit"):
        millimetres(np.array([1.0, 66.0]))


def test_encodings_invert() -> None:
    depth = np.arange(0, 65536, 7, dtype=np.uint16).reshape(1, -1)
    colors = encode_depth(depth, True).astype(int)
    np.testing.assert_array_equal(colors[..., 1] * 256 + colors[..., 2], depth)
    nocs = np.linspace(-0.5, 0.5, 300, dtype=np.float32).reshape(1, 100, 3)
    colors = encode_coordinates(nocs, np.ones((1, 100), bool)).astype(float)
    back = np.stack([colors[..., 2], colors[..., 1], 255 - colors[..., 0]], axis=-1) / 255 - 0.5
    np.testing.assert_allclose(back, nocs, atol=0.5 / 255 + 1e-6)


def test_image_bytes_repeat() -> None:
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    assert image_bytes(".png", image) == image_bytes(".png", image.copy())


def surface_of(model: CadModel, part: str) -> np.ndarray:
    faces = model.faces[model.face_parts == model.part_names.index(part)]
    return model.vertices[faces].mean(axis=1)


def test_handle_is_seen_from_one_percent_on() -> None:
    mug = build_model("mug", 0)
    handle = surface_of(mug, "handle")
    handle = handle[handle[:, 0] > handle[:, 0].mean()]  # away from the wall
    body = np.repeat(surface_of(mug, "body"), 50, axis=0)[:3000]
    assert handle_visible(mug, np.concatenate([body, handle[:31]]))
    assert not handle_visible(mug, np.concatenate([body, handle[:20]]))
    assert not handle_visible(mug, body)
    assert not handle_visible(mug, np.zeros((0, 3)))


@pytest.mark.parametrize("variant", range(12))
def test_mug_recentring_puts_the_body_in_the_middle(variant: int) -> None:
    mug = build_model("mug", variant)
    recentring = recentring_of(mug.vertices, mug.model_id)
    body = surface_of(mug, "body") + recentring.shift
    middle = (body[:, 0].max() + body[:, 0].min()) / 2
    assert abs(middle) < 0.02
    moved = recentring.points(mug.vertices)
    assert np.linalg.norm(2 * np.abs(moved).max(axis=0)) == pytest.approx(1, abs=1e-6)


def test_camera_model_is_mirrored_and_closed_outwards(writer: FileWriter) -> None:
    model = build_model("laptop", 2)
    write_camera_model(writer, model, train=True)
    folder = writer.root / "obj_models/train/03642806/laptop_v02"
    mesh = trimesh.load(folder / "model.obj", process=False)
    np.testing.assert_allclose(mesh.vertices * [1, 1, -1], model.vertices, atol=1e-6)
    original = trimesh.Trimesh(model.vertices, model.faces, process=False)
    assert mesh.volume == pytest.approx(original.volume, rel=1e-4) and mesh.volume > 0
    upper, lower = np.loadtxt(folder / "bbox.txt")
    np.testing.assert_allclose(upper - lower, np.ptp(model.vertices, axis=0), atol=1e-6)
