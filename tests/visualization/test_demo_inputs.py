"""Cameras and files that users give."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from roca_nocs.data.maps import read_map
from roca_nocs.visualization.inputs import (
    CameraChoice,
    InputError,
    file_sources,
    find_inputs,
    parse_intrinsics,
    record_sources,
    unique_names,
)

MATRIX = [[500.0, 0, 320], [0, 510, 240], [0, 0, 1]]


def test_intrinsics_in_every_form(tmp_path: Path) -> None:
    assert parse_intrinsics("500,510,320,240").tolist() == MATRIX
    larger = np.eye(4)
    larger[:3, :3] = MATRIX
    forms = {
        "three.txt": "\n".join(" ".join(map(str, row)) for row in MATRIX),
        "four.txt": "\n".join(" ".join(map(str, row)) for row in larger.tolist()),
        "commas.txt": "\n".join(", ".join(map(str, row)) for row in MATRIX),
        "line.txt": " ".join(str(value) for row in MATRIX for value in row),
        "numbers.txt": "500 510 320 240",
        "matrix.json": json.dumps(MATRIX),
        "result.json": json.dumps({"file": "a.png", "intrinsics": MATRIX, "objects": []}),
        "named.json": json.dumps({"fx": 500, "fy": 510, "cx": 320, "cy": 240}),
    }
    for name, content in forms.items():
        (tmp_path / name).write_text(content)
        assert parse_intrinsics(str(tmp_path / name)).tolist() == MATRIX, name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("500,510,320", r"'500,510,320': expected fx,fy,cx,cy .* shape \(3,\)"),
        ("500,510,320,x", "expected fx,fy,cx,cy in pixels, or a file.*'x'"),
        ("absent.txt", "absent.txt.*expected"),
        ("500,-510,320,240", "focal lengths must be positive"),
        ("nan,510,320,240", "not a camera matrix"),
    ],
)
def test_intrinsics_that_are_none(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_intrinsics(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 2\n3 4", "expected"),
        ("1 2 3\n4 5\n", "expected"),
        ("hello", "expected"),
        ('{"fx": 1}', "expected.*fy"),
        ("[[1, 0", "expected"),
        ("500 0 320\n0 510 240\n0 1 1", "not a camera matrix"),
        ("500 0 320\n3 510 240\n0 0 1", "not a camera matrix"),
    ],
)
def test_files_without_a_matrix(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "camera.txt"
    file.write_text(content)
    with pytest.raises(InputError, match=f"camera.txt.*{message}"):
        parse_intrinsics(str(file))


def test_field_of_view() -> None:
    matrix = CameraChoice(field_of_view=90).matrix(480, 640)
    assert np.allclose(matrix, [[320, 0, 319.5], [0, 320, 239.5], [0, 0, 1]])
    for degrees in (0, 180, float("nan")):
        with pytest.raises(InputError, match="between 0 and 180"):
            CameraChoice(field_of_view=degrees)
    assert CameraChoice().matrix(480, 640) is None
    matrix = CameraChoice(focal_share=2.0).matrix(480, 640)
    assert np.allclose(matrix, [[960, 0, 319.5], [0, 960, 239.5], [0, 0, 1]])


def test_intrinsics_of_another_image_size() -> None:
    camera = CameraChoice(np.array(MATRIX))
    assert camera.matrix(480, 640) is not None
    with pytest.raises(ValueError, match=r"principal point \(320, 240\).*outside the 160x120"):
        camera.matrix(120, 160)


def test_folders_and_names(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b.JPG", "a.png", "notes.txt", "c.mp4"):
        (folder / name).touch()
    images, videos = find_inputs([str(tmp_path / "x.weird"), str(folder)])
    assert [path.name for path in images] == ["x.weird", "a.png", "b.JPG"]
    assert [path.name for path in videos] == ["c.mp4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty has no images"):
        find_inputs([str(tmp_path / "empty")])
    assert unique_names(["a", "b", "a", "a_2", "a"]) == ["a", "b", "a_2", "a_2_2", "a_3"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    good, damaged, text = (tmp_path / name for name in ("good.png", "damaged.png", "text.jpg"))
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(good), image[..., ::-1])
    damaged.write_bytes(good.read_bytes()[:300])
    text.write_text("no image")
    camera = CameraChoice(field_of_view=60)
    paths = [good, damaged, text, tmp_path / "absent.png"]
    first, *others = file_sources(paths, camera, "scene1")
    frame = first()
    assert np.array_equal(frame.image, image)
    assert (frame.name, frame.scene_id, frame.file_name) == ("good", "scene1", str(good))
    for path, read in zip(paths[1:], others, strict=True):
        with pytest.raises(InputError, match=f"{path.name}: .+"):
            read()
    too_large = CameraChoice(np.array(MATRIX))
    with pytest.raises(InputError, match=r"good\.png: the principal point"):
        file_sources([good], too_large, None)[0]()


def test_records_bring_camera_and_scene(embedded_names: Path) -> None:
    records = DatasetCatalog.get("rooms_tiny_val")[:3]
    known = {records[0]["scene_id"]}
    frames = [read() for read in record_sources(records, CameraChoice(), known)]
    assert len({frame.name for frame in frames}) == 3
    for frame, record in zip(frames, records, strict=True):
        assert np.array_equal(frame.intrinsics, record["intrinsics"])
        assert frame.record is record
        assert (frame.scene_id is None) == (record["scene_id"] not in known)


def test_records_with_a_projection(embedded_names: Path) -> None:
    """KITTI's camera, and objects in the frame of another one; an image is a scene of its own."""
    records = DatasetCatalog.get("street_tiny_val")[:2]
    for read, record in zip(record_sources(records, CameraChoice(), ()), records, strict=True):
        frame = read()
        assert frame.name == record["scene_id"] and frame.scene_id is None
        assert np.allclose(frame.projection(), record["projection"], atol=1e-9)
        # Pixel centres are integers among the intrinsics, as --intrinsics has them.
        assert np.allclose(record["intrinsics"][:2, 2] - frame.intrinsics[:2, 2], 0.5)
        assert 0.02 < np.linalg.norm(frame.offset) < 0.2
    (read,) = record_sources(DatasetCatalog.get("street_tiny_omni3d_val")[:1], CameraChoice(), ())
    assert "/" not in read().name and not read().offset.any()


def test_depth_maps(embedded_names: Path, tmp_path: Path) -> None:
    record = DatasetCatalog.get("tabletop_tiny_val")[0]
    (read,) = record_sources([record], CameraChoice(), (), depth=True)
    expected = read_map(record, "depth")
    assert np.array_equal(read().depth, expected)
    (read,) = record_sources([record], CameraChoice(), ())
    assert read().depth is None

    photo = Path(record["file_name"])
    camera, maps = CameraChoice(field_of_view=60), tmp_path / "maps"
    maps.mkdir()
    millimetres = np.round(expected * 1000).astype(np.uint16)
    cv2.imwrite(str(maps / f"{photo.stem}.png"), millimetres)
    for depth in (maps, maps / f"{photo.stem}.png"):
        assert np.array_equal(file_sources([photo], camera, depth=depth)[0]().depth, expected)
    with pytest.raises(InputError, match="cannot belong to 2 images: give a folder"):
        file_sources([photo, photo], camera, depth=maps / f"{photo.stem}.png")
    cv2.imwrite(str(maps / f"{photo.stem}.png"), millimetres[1:])
    with pytest.raises(InputError, match=f"{photo.name}: the depth map .* is 160x119, the image"):
        file_sources([photo], camera, depth=maps)[0]()
    (maps / f"{photo.stem}.png").unlink()
    with pytest.raises(InputError, match=f"{photo.name}: .*No such file"):
        file_sources([photo], camera, depth=maps)[0]()
