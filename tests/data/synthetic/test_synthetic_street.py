"""Streets: models with a front, scenes, and files that agree with what is drawn."""

from __future__ import annotations

import json
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from roca_nocs.data.datasets.kitti import load_kitti, read_projection, yaw_rotation
from roca_nocs.data.datasets.kitti_files import read_labels
from roca_nocs.data.datasets.omni3d import load_omni3d
from roca_nocs.data.synthetic import manifest as manifest_module
from roca_nocs.data.synthetic.generate import generate, plan_tasks, run_task
from roca_nocs.data.synthetic.layout import occupied, world_vertices
from roca_nocs.data.synthetic.manifest import FileWriter
from roca_nocs.data.synthetic.models import CATEGORIES, TRAIN_VARIANTS, build_model, cars, people
from roca_nocs.data.synthetic.models.builder import ModelBuilder
from roca_nocs.data.synthetic.presets import DatasetArguments
from roca_nocs.data.synthetic.primitives import signed_volume
from roca_nocs.data.synthetic.raycast import pixel_directions
from roca_nocs.data.synthetic.render import Renderer
from roca_nocs.data.synthetic.street import sample_street, street_camera, street_view
from roca_nocs.data.synthetic.symmetry import SYMMETRY_NONE
from roca_nocs.data.synthetic.types import CadModel, Frame, PlacedObject, Scene, View
from roca_nocs.data.synthetic.write_street import (
    CORNER_SIGNS,
    MIN_HEIGHT_SHARE,
    occlusion_level,
    write_image,
)

SIZE = (84, 288)
ARGUMENTS = DatasetArguments("street", train=12, val=3, width=96, height=32, seed=2)
SHAPES = {"car": cars.car, "pedestrian": people.pedestrian, "cyclist": people.cyclist}


@pytest.fixture(scope="module")
def streets() -> list[Scene]:
    return [sample_street(7, "test", index, TRAIN_VARIANTS) for index in range(50)]


@pytest.fixture(scope="module")
def drawn(
    streets: list[Scene], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[tuple[Scene, View, Frame, list[dict]]]]:
    """Some scenes, drawn and written: folder, and each with its annotations."""
    root = tmp_path_factory.mktemp("drawn")
    writer = FileWriter(root)
    results = []
    for number in (0, 1, 3, 8, 13, 18, 21):
        scene = streets[number]
        view = street_view(scene, SIZE)
        frame = Renderer(scene).render(view)
        record = write_image(writer, number, scene, view, frame)
        results.append((scene, view, frame, record["annotations"]))
    return root, results


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("street") / "set"
    generate(root, ARGUMENTS, progress=False)
    return root


def part_centre(model: CadModel, name: str) -> np.ndarray:
    faces = model.faces[model.face_parts == model.part_names.index(name)]
    return model.vertices[faces].reshape(-1, 3).mean(axis=0)


@pytest.mark.parametrize("category", CATEGORIES["street"])
def test_models(category: str) -> None:
    ranges = {  # metres: lowest and highest width, height, length
        "car": ((1.5, 2.0), (1.35, 1.9), (3.2, 4.9)),
        "pedestrian": ((0.5, 0.8), (1.5, 1.95), (0.25, 1.15)),
        "cyclist": ((0.5, 0.7), (1.65, 2.0), (1.6, 1.9)),
    }
    shapes = set()
    for variant in range(12):
        model = build_model(category, variant)
        for value, (low, high) in zip(model.size, ranges[category], strict=True):
            assert low <= value <= high, (variant, model.size)
        low, high = model.vertices.min(axis=0), model.vertices.max(axis=0)
        np.testing.assert_allclose(low, -high, atol=1e-6)
        assert np.linalg.norm(high - low) == pytest.approx(1.0, abs=1e-6)
        assert len(model.faces) <= 2000
        assert model.symmetry == SYMMETRY_NONE  # or its heading could not be told
        shapes.add((model.part_names, len(model.faces), *model.size.tolist()))
    assert len(shapes) == 12


class CheckedBuilder(ModelBuilder):
    """Refuses meshes that are wound inside out."""

    def add(self, part: str, *meshes) -> None:
        assert all(signed_volume(mesh) > 0 for mesh in meshes), part
        super().add(part, *meshes)


@pytest.mark.parametrize("category", CATEGORIES["street"])
def test_parts_are_wound_outwards_and_stand_on_the_ground(category: str) -> None:
    for variant in range(12):
        builder = CheckedBuilder()
        SHAPES[category](builder, variant, np.random.default_rng(variant))
        lowest = min(mesh.vertices[:, 1].min() for mesh in builder._meshes)
        assert lowest == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("variant", range(12))
def test_fronts_look_along_minus_z(variant: int) -> None:
    for category in ("car", "cyclist"):
        model = build_model(category, variant)
        assert part_centre(model, "headlight")[2] < part_centre(model, "tail_light")[2] - 0.3
    walker = build_model("pedestrian", variant)
    assert part_centre(walker, "shoe")[2] < part_centre(walker, "hair")[2]


def heading(placed: PlacedObject) -> float:
    """rotation_y in the camera, whose x is world x and whose z is world y."""
    front = -placed.rotation[:, 2]
    return float(np.arctan2(-front[1], front[0]))


def test_scene_is_a_pure_function() -> None:
    first, again = (sample_street(7, "test", 5, TRAIN_VARIANTS) for _ in range(2))
    assert [placed.model.model_id for placed in first.objects] == [
        placed.model.model_id for placed in again.objects
    ]
    for a, b in zip(first.objects, again.objects, strict=True):
        np.testing.assert_array_equal(a.translation, b.translation)
    for a, b in zip(first.surfaces, again.surfaces, strict=True):
        np.testing.assert_array_equal(a.vertices, b.vertices)
    other = sample_street(8, "test", 5, TRAIN_VARIANTS)
    assert street_camera(other.seed).focal != street_camera(first.seed).focal


def test_variants_are_those_asked_for(streets: list[Scene]) -> None:
    ids = {placed.model.model_id for scene in streets for placed in scene.objects}
    assert all(int(name[-2:]) in TRAIN_VARIANTS for name in ids)
    classes = {p.model.category for scene in streets for p in scene.objects if p.annotated}
    assert classes == set(CATEGORIES["street"])
    with pytest.raises(ValueError, match="variants is empty"):
        sample_street(0, "test", 0, ())


def test_nobody_collides_and_all_stand_on_the_ground(streets: list[Scene]) -> None:
    for scene in streets:
        areas = [occupied(placed) for placed in scene.objects]
        assert not any(a.overlaps(b) for a, b in combinations(areas, 2))
        ground = scene.surfaces[0].vertices
        slope = float((ground[2, 2] - ground[0, 2]) / (ground[2, 1] - ground[0, 1]))
        for placed in scene.objects:
            bottom = world_vertices(placed)[:, 2].min()
            assert bottom == pytest.approx(slope * placed.translation[1], abs=1e-3)
        # Annotated objects come first, within their range of depth.
        flags = [placed.annotated for placed in scene.objects]
        assert flags == sorted(flags, reverse=True)
        assert all(p.translation[1] <= 46 for p in scene.objects if p.annotated)


def test_headings_cover_the_circle(streets: list[Scene]) -> None:
    angles = [heading(placed) for scene in streets for placed in scene.objects]
    counts, _ = np.histogram(angles, bins=8, range=(-np.pi, np.pi))
    assert counts.min() >= 3


@pytest.mark.parametrize("start", [0, 25])
def test_special_scenes(streets: list[Scene], start: int) -> None:
    def annotated(index: int) -> list[PlacedObject]:
        return [placed for placed in streets[start + index].objects if placed.annotated]

    assert annotated(3) == []
    twins = annotated(8)
    assert any(
        a.model is b.model
        and a.materials is b.materials
        and (a.scale == b.scale).all()
        and (a.rotation == b.rotation).all()
        and abs(a.translation[1] - b.translation[1]) > 3
        for a, b in combinations(twins, 2)
    )
    depths = [world_vertices(placed)[:, 1] for placed in annotated(13)]
    assert any(depth.min() < 0 < depth.max() for depth in depths)
    assert len(annotated(18)) > 1
    offset = street_camera(streets[start + 18].seed).offset
    for placed in annotated(18):
        x, z = placed.translation[:2] - offset[[0, 2]]
        steps = (heading(placed) - np.arctan2(x, z)) / (np.pi / 12)
        assert steps == pytest.approx(round(steps), abs=1e-9)


def test_labels_on_edges_and_centres_of_bins(drawn: tuple) -> None:
    labels = read_labels(drawn[0] / f"training/label_2/{18:06d}.txt")
    alphas = labels.alpha[np.array(labels.types) != "DontCare"]
    assert len(alphas) > 1
    steps = alphas / (np.pi / 12)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)  # written with six decimals
    # rotation_y is not, or the two were mixed up.
    turns = labels.rotation_y[np.array(labels.types) != "DontCare"] / (np.pi / 12)
    assert np.abs(turns - np.round(turns)).max() > 0.01


def test_visible_points_lie_in_the_labelled_boxes(drawn: tuple) -> None:
    """Depth, intrinsics, centre, dimensions and heading of label and image fit together."""
    root, results = drawn
    checked = 0
    for number, (scene, view, frame, entries) in zip(
        (0, 1, 3, 8, 13, 18, 21), results, strict=True
    ):
        labels = read_labels(root / f"training/label_2/{number:06d}.txt")
        seen = [i for i in range(len(scene.objects)) if frame.visible_pixels[i]]
        assert len(labels) == len(seen) == len(entries)
        offset = street_camera(scene.seed).offset
        for row, index in enumerate(seen):
            if labels.types[row] == "DontCare":
                continue
            rows, columns = np.nonzero(frame.instance == index + 1)
            depth = frame.depth[rows, columns].astype(np.float64)
            points = pixel_directions(view.intrinsics, columns, rows) * depth[:, None] - offset
            local = (points - labels.centers[row]) @ yaw_rotation(labels.rotation_y[row])
            half = labels.dimensions[row][[2, 1, 0]] / 2
            assert (np.abs(local) <= half + 2e-3).all()
            # Thin parts of objects a few pixels wide fall between the rays.
            if (
                frame.visibility[index] > 0.95
                and frame.truncation[index] == 0
                and frame.visible_pixels[index] > 200
            ):
                checked += 1
                assert np.abs(local / half).max() > 0.9  # and fill them
                # Pixels of boxes span [i, i + 1].
                box = labels.boxes[row]
                assert (columns.min(), rows.min()) >= (np.floor(box[0]), np.floor(box[1]))
                np.testing.assert_allclose(
                    [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], box, atol=1.01
                )
    assert checked >= 5


def test_rear_lamps_are_behind(drawn: tuple) -> None:
    for scene, view, frame, entries in drawn[1]:
        seen = [p for i, p in enumerate(scene.objects) if frame.visible_pixels[i]]
        for placed, entry in zip(seen, entries, strict=True):
            if "headlight" not in placed.model.part_names:
                continue
            ahead = part_centre(placed.model, "headlight") - part_centre(placed.model, "tail_light")
            ahead = view.world_to_camera[:3, :3] @ placed.rotation @ (placed.scale * ahead)
            ahead[1] = 0.0  # lamps differ in height
            front = np.array(entry["R_cam"])[:, 0]
            assert front @ ahead / np.linalg.norm(ahead) > 0.95


def test_boxes_and_corners_of_the_omni3d_annotations(drawn: tuple) -> None:
    for _, view, _, entries in drawn[1]:
        intrinsics = view.intrinsics + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        for entry in entries:
            width, height, length = entry["dimensions"]
            corners = 0.5 * CORNER_SIGNS * [length, height, width] @ np.array(entry["R_cam"]).T
            np.testing.assert_allclose(
                corners + entry["center_cam"], entry["bbox3D_cam"], atol=1e-5
            )
            low = np.array(entry["bbox2D_trunc"][:2])
            assert (low <= np.array(entry["bbox2D_tight"][:2]) + 1e-2).all()
            projected = np.array(entry["bbox3D_cam"]) @ intrinsics.T
            if (projected[:, 2] > 0.1).all():
                pixels = projected[:, :2] / projected[:, 2:]
                box = [*pixels.min(axis=0), *pixels.max(axis=0)]
                np.testing.assert_allclose(entry["bbox2D_proj"], box, atol=2e-2)


def test_empty_and_small_objects(drawn: tuple) -> None:
    root, results = drawn
    empty = read_labels(root / "training/label_2/000003.txt")
    assert set(empty.types) <= {"DontCare"}
    cared = 0
    for number, (_, view, _, entries) in zip((0, 1, 3, 8, 13, 18, 21), results, strict=True):
        labels = read_labels(root / f"training/label_2/{number:06d}.txt")
        for row, entry in enumerate(entries):
            assert (labels.types[row] != "DontCare") == entry["valid3D"]
            if entry["valid3D"]:
                cared += 1
                top, bottom = labels.boxes[row][[1, 3]]
                assert bottom - top > MIN_HEIGHT_SHARE * view.size[0]
                assert 0 <= labels.occlusion[row] <= 3
            else:
                assert labels.alpha[row] == labels.rotation_y[row] == -10
                assert (labels.dimensions[row] == -1).all() and labels.occlusion[row] == -1
    assert cared >= 8
    line = next(
        line
        for number in (0, 1, 3, 8, 13, 18, 21)
        for line in (root / f"training/label_2/{number:06d}.txt").read_text().splitlines()
        if line.startswith("DontCare")
    )
    assert [float(word) for word in line.split()[8:14]] == [-1, -1, -1, -1000, -1000, -1000]


def test_larger_images_show_the_same_scenes(streets: list[Scene], tmp_path: Path) -> None:
    writer = FileWriter(tmp_path)
    found = []
    for number, factor in enumerate((1, 2)):
        size = (SIZE[0] * factor, SIZE[1] * factor)
        view = street_view(streets[0], size)
        record = write_image(writer, number, streets[0], view, Renderer(streets[0]).render(view))
        found.append((np.array(record["K"]), record["annotations"]))
    (small_k, small), (large_k, large) = found
    np.testing.assert_allclose(large_k[:2], 2 * small_k[:2], rtol=1e-12)
    by_place = {tuple(entry["center_cam"]): entry for entry in large}
    for entry in small:
        twin = by_place[tuple(entry["center_cam"])]
        assert (twin["dimensions"], twin["R_cam"]) == (entry["dimensions"], entry["R_cam"])
        np.testing.assert_allclose(
            twin["bbox2D_proj"], 2 * np.array(entry["bbox2D_proj"]), rtol=1e-3, atol=5e-3
        )


def test_both_formats_say_the_same(made: Path) -> None:
    for split, count in (("train", 12), ("val", 3)):
        kitti = load_kitti(made, split)
        omni3d = load_omni3d(made / f"Omni3D/street_{split}.json", made, is_train=True)
        assert len(kitti) == len(omni3d) == count
        for first, second in zip(kitti, omni3d, strict=True):
            assert first["image_id"] == second["image_id"]
            assert first["file_name"] == second["file_name"]
            assert (first["height"], first["width"]) == (32, 96)
            np.testing.assert_allclose(first["intrinsics"], second["intrinsics"], atol=1e-9)
            projection = first["projection"]
            offset = np.linalg.solve(projection[:, :3], projection[:, 3])
            assert 0.03 < offset[0] < 0.09
            of_second = {
                each["annotation_id"]: each for each in second["annotations"] + second["ignored"]
            }
            first_id = json.loads((made / f"Omni3D/street_{split}.json").read_text())
            lines = [
                entry["id"]
                for entry in first_id["annotations"]
                if entry["image_id"] == first["image_id"]
            ]
            for each in first["annotations"]:
                other = of_second[lines[each["annotation_id"]]]
                assert each["category_id"] == other["category_id"]
                center = np.array(each["center"])
                np.testing.assert_allclose(center + offset, other["center"], atol=3e-6)
                np.testing.assert_allclose(each["dimensions"], other["dimensions"], atol=2e-6)
                np.testing.assert_allclose(each["rotation"], other["rotation"], atol=2e-6)
                pixel = projection @ [*center, 1]
                other_pixel = second["intrinsics"] @ other["center"]
                np.testing.assert_allclose(pixel, other_pixel, atol=1e-3)


def test_splits_and_files(made: Path) -> None:
    names = [(made / f"ImageSets/{split}.txt").read_text().split() for split in ("train", "val")]
    assert names[0] == [f"{number:06d}" for number in range(12)]
    assert names[1] == ["500000", "500001", "500002"]
    assert (made / "ImageSets/trainval.txt").read_text().split() == names[0] + names[1]
    for folder, suffix in (("image_2", "png"), ("label_2", "txt"), ("calib", "txt")):
        files = sorted(path.name for path in (made / "training" / folder).iterdir())
        assert files == sorted(f"{name}.{suffix}" for name in names[0] + names[1])
    focal = {read_projection(path)[0, 0] for path in (made / "training/calib").iterdir()}
    assert len(focal) == 15


def test_bytes_do_not_depend_on_the_order_of_work(made: Path, tmp_path: Path) -> None:
    tasks = plan_tasks(ARGUMENTS)
    assert [(task.key, task.num_images) for task in tasks] == [
        ("train/0", 10),
        ("train/1", 2),
        ("val/0", 3),
    ]
    for task in reversed(tasks):
        for name in run_task(str(tmp_path), ARGUMENTS, task)["files"]:
            assert (tmp_path / name).read_bytes() == (made / name).read_bytes(), name


def test_damaged_group_is_made_again(made: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(made, tmp_path / "set"))
    path = root / "training/label_2/500001.txt"
    before = path.read_bytes()
    path.write_text("Car\n")
    generate(root, ARGUMENTS, progress=False)
    assert path.read_bytes() == before


def test_occlusion_levels() -> None:
    shares = (1.0, 0.81, 0.8, 0.41, 0.4, 0.16, 0.15, 0.0)
    assert [occlusion_level(share) for share in shares] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("synthetic/street.py", {"street"}),
        ("datasets/kitti_files.py", {"street"}),
        ("synthetic/models/vessels.py", {"tabletop"}),
        ("synthetic/write_rooms.py", {"rooms"}),
        ("synthetic/traffic_roads.py", {"traffic"}),
        ("bev_raster.py", {"traffic"}),
        ("synthetic/render.py", {"rooms", "tabletop", "street", "traffic"}),
        ("cad_catalog.py", {"rooms", "tabletop", "street", "traffic"}),
    ],
)
def test_work_on_one_kind_leaves_the_others_valid(
    file: str, changed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(manifest_module.__file__).parents[1]
    copy = Path(shutil.copytree(package, tmp_path / "data"))
    monkeypatch.setattr(manifest_module, "__file__", str(copy / "synthetic" / "manifest.py"))
    kinds = ("rooms", "tabletop", "street", "traffic")
    before = {kind: manifest_module.source_hash.__wrapped__(kind) for kind in kinds}
    assert len(set(before.values())) == 4
    (copy / file).write_text((copy / file).read_text() + "\n# changed\n")
    after = {kind: manifest_module.source_hash.__wrapped__(kind) for kind in kinds}
    assert {kind for kind in kinds if before[kind] != after[kind]} == changed
