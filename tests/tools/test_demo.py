"""The demo writes pictures, scenes and numbers of photos, videos and datasets."""

import base64
import importlib.util
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import trimesh
from detectron2.data import DatasetCatalog
from pycocotools import mask as rle

from roca_nocs.data.cad_catalog import load_cad_catalog
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.images import read_color
from roca_nocs.geometry.rotation import quaternion_to_matrix
from roca_nocs.visualization.inputs import Frame, InputError
from roca_nocs.visualization.predictor import Predictor
from visualization.fake_model import FakeROCA, write_config

ROOT = Path(__file__).parents[2]
NAME = "rooms_tiny_val"

_spec = importlib.util.spec_from_file_location("demo", ROOT / "tools" / "demo.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


def run(*arguments: object) -> int:
    return tool.run(tool.argument_parser().parse_args(list(map(str, arguments))))


def camera_of(record: dict) -> str:
    matrix = record["intrinsics"]
    return ",".join(str(matrix[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2)))


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Page(HTMLParser):
    """The addresses and the embedded documents of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.documents: list[str] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value)
            if name == "srcdoc":
                self.documents.append(value)


def test_photo_gets_everything(embedded_names: Path, tmp_path: Path) -> None:
    """A copy of a dataset image, of which the demo knows no scene: the whole catalogue is used."""
    record = DatasetCatalog.get(NAME)[0]
    photo, output = tmp_path / "my room.png", tmp_path / "found"
    photo.write_bytes(Path(record["file_name"]).read_bytes())
    options = write_config(tmp_path, NAME)
    camera = ["--intrinsics", camera_of(record)]
    assert run(*options, "--input", photo, *camera, "--output", output) == 0
    names = [f"my room.{suffix}" for suffix in ("glb", "html", "json", "png")]
    assert written(output) == ["index.html", *names]

    results = json.loads((output / "my room.json").read_text())
    annotations = record["annotations"]
    assert results["file"] == str(photo)
    assert results["image_size"] == {"height": 120, "width": 160}
    assert np.allclose(results["intrinsics"], record["intrinsics"])
    assert len(results["objects"]) == len(annotations) > 0
    for found, annotation in zip(results["objects"], annotations, strict=True):
        x, y, width, height = annotation["bbox"]
        assert np.allclose(found["box_xyxy"], [x, y, x + width, y + height])
        assert np.array_equal(rle.decode(found["mask"]), rle.decode(annotation["segmentation"]))
        assert found["class_id"] == annotation["category_id"] and found["has_alignment"]
        assert np.allclose(found["translation"], annotation["t"], atol=1e-5)
        assert np.allclose(found["scale"], annotation["s"], atol=1e-5)
        rotations = quaternion_to_matrix(torch.tensor([found["rotation_wxyz"], annotation["q"]]))
        assert torch.allclose(*rotations, atol=1e-5) and found["rotation_wxyz"][0] >= 0
        model = annotation["model"]
        assert found["cad"] is None
        assert found["wild_cad"] == {"synset": model["catid_cad"], "model_id": model["id_cad"]}
    assert [found["score"] for found in results["objects"]] == pytest.approx(
        [0.9 - 0.01 * row for row in range(len(annotations))]
    )

    scene = trimesh.load(output / "my room.glb")
    meshes = [each for each in scene.geometry if each.startswith("object_")]
    assert len(meshes) == len(annotations) and "depth" in scene.geometry
    for name in meshes:
        row = int(name.split("_")[1])
        place = scene.graph[name][0][:3, 3] * [1, -1, -1]
        assert np.allclose(place, annotations[row]["t"], atol=1e-5)

    page = Page(output / "my room.html")
    assert all(address.startswith("data:") for address in page.addresses)
    assert len(page.documents) == 1 and page.documents[0].startswith("<!DOCTYPE html>")
    embedded = base64.b64decode(re.search(r'base64_data="([^"]+)"', page.documents[0])[1])
    inside = trimesh.load(io.BytesIO(embedded), file_type="glb")
    assert set(inside.geometry) == set(scene.geometry)
    index = Page(output / "index.html")
    for address in index.addresses:
        assert (output / address.replace("%20", " ")).is_file()
    assert cv2.imread(str(output / "my room.png")).shape == (326, 5 * 404, 3)


def test_dataset_with_its_ground_truth_and_scenes(embedded_names: Path, tmp_path: Path) -> None:
    options = write_config(tmp_path, NAME, nocs=True)
    output = tmp_path / "found"
    assert run(*options, "--dataset", NAME, "--count", 2, "--output", output) == 0
    pictures = sorted(output.glob("*.png"))
    assert len(pictures) == 2
    assert cv2.imread(str(pictures[0])).shape == (2 * 326, 5 * 404, 3)
    results = json.loads(pictures[0].with_suffix(".json").read_text())
    assert results["scene"] and all(found["cad"] for found in results["objects"])


def test_scene_and_catalogue_by_name(embedded_names: Path, tmp_path: Path) -> None:
    record = DatasetCatalog.get(NAME)[0]
    options = write_config(tmp_path, NAME)
    folder = embedded_names / "rooms_tiny" / "Dataset"
    common = [*options, "--input", record["file_name"], "--intrinsics", camera_of(record)]
    stem = Path(record["file_name"]).stem
    assert run(*common, "--scene", record["scene_id"], "--output", tmp_path / "a") == 0
    objects = json.loads((tmp_path / "a" / f"{stem}.json").read_text())["objects"]
    assert all(found["cad"] for found in objects)
    with pytest.raises(ValueError, match="--scene kitchen: its CAD models are not known"):
        run(*common, "--scene", "kitchen", "--output", tmp_path / "b")

    # A catalogue of one model: only its objects get a model and a mesh.
    catalog = load_cad_catalog(folder, "val")
    key = objects[0]["cad"]["synset"], objects[0]["cad"]["model_id"]
    entry = catalog.entries[catalog.index(*key)]
    type(catalog)([entry]).save(tmp_path / "single")
    assert run(*common, "--cads", tmp_path / "single", "--output", tmp_path / "c") == 0
    fewer = json.loads((tmp_path / "c" / f"{stem}.json").read_text())["objects"]
    expected = [found["cad"] if found["cad"] == objects[0]["cad"] else None for found in objects]
    assert [found["wild_cad"] for found in fewer] == expected
    scene = trimesh.load(tmp_path / "c" / f"{stem}.glb")
    count = sum(cad is not None for cad in expected)
    assert len([each for each in scene.geometry if each.startswith("object_")]) == count > 0
    with pytest.raises(DatasetError, match="absent"):
        run(*common, "--cads", tmp_path / "absent", "--output", tmp_path / "d")


def test_bad_files_do_not_stop_the_others(
    embedded_names: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is found in a white image; two files are damaged; the exit status tells."""
    photos, output = tmp_path / "photos", tmp_path / "found"
    photos.mkdir()
    (photos / "a.png").write_text("no image")
    cv2.imwrite(str(photos / "b.png"), np.full((90, 70, 3), 255, np.uint8))
    (photos / "c.mp4").write_text("no video")
    arguments = ["--input", str(photos), "--fov", "60", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["demo.py", *write_config(tmp_path, NAME), *arguments])
    with pytest.raises(SystemExit) as stopped:
        tool.main()
    assert stopped.value.code == 1
    errors = capsys.readouterr().err
    assert f"error: {photos / 'a.png'}: " in errors and f"{photos / 'c.mp4'}" in errors
    assert written(output) == ["b.glb", "b.html", "b.json", "b.png", "index.html"]
    assert json.loads((output / "b.json").read_text())["objects"] == []
    scene = trimesh.load(output / "b.glb")
    assert set(scene.geometry) == {"photo_camera", "depth"}


def test_camera_is_needed(
    embedded_names: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = DatasetCatalog.get(NAME)[0]
    options = write_config(tmp_path, NAME)
    arguments = [*options, "--input", record["file_name"], "--output", str(tmp_path / "found")]
    monkeypatch.setattr(sys, "argv", ["demo.py", *arguments])
    with pytest.raises(SystemExit, match=r"has to know the camera: give --intrinsics .* --fov"):
        tool.main()
    frame = Frame("a", "a.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(InputError, match=r"a\.png: a model that finds 3D poses"):
        Predictor(FakeROCA(NAME), _Mapper(), 0.5)(frame)
    for bad in (options[:2], [*options]):  # no weights; no output folder
        monkeypatch.setattr(sys, "argv", ["demo.py", *bad])
        with pytest.raises(SystemExit) as stopped:
            tool.main()
        assert stopped.value.code == 2


class _Mapper:
    """Test-time transforms that halve the image."""

    image_format = "BGR"

    def __init__(self) -> None:
        from detectron2.data import transforms as T

        self.augmentations = T.AugmentationList([T.Resize((60, 80))])


def test_intrinsics_follow_the_resizing_of_the_model_input(embedded_names: Path) -> None:
    record = DatasetCatalog.get(NAME)[0]
    image = read_color(record, "RGB")
    frame = Frame("a", "a.png", image, record["intrinsics"], scene_id="s")
    data = Predictor(FakeROCA(NAME), _Mapper(), 0.5).prepare(frame)
    assert data["image"].shape == (3, 60, 80) and (data["height"], data["width"]) == (120, 160)
    assert data["scene_id"] == "s"
    focal, center = record["intrinsics"][0, 0], record["intrinsics"][0, 2]
    assert float(data["intrinsics"][0, 0]) == pytest.approx(focal / 2)
    assert float(data["intrinsics"][0, 2]) == pytest.approx((center + 0.5) / 2 - 0.5)
    # Blue first, as the mapper says.
    mean = image.reshape(-1, 3).mean(axis=0)
    assert np.allclose(data["image"].float().mean(dim=(1, 2)), mean[::-1], atol=2)


def test_video(embedded_names: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    record = DatasetCatalog.get(NAME)[0]
    image = read_color(record, "RGB")
    clip, output = tmp_path / "clip.mkv", tmp_path / "found"
    with av.open(str(clip), "w") as container:
        # Lossless, so that the model recognises its image in the frames.
        stream = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "bgr0"
        for frame in (image, image[::-1], image):
            pixels = np.ascontiguousarray(frame)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    options = write_config(tmp_path, NAME)
    camera = ["--intrinsics", camera_of(record)]
    assert run(*options, "--input", clip, *camera, "--output", output) == 0
    assert written(output) == ["clip", "clip.mp4", "index.html"]
    results = [json.loads((output / "clip" / f"{i:06d}.json").read_text()) for i in range(3)]
    assert [each["frame"] for each in results] == [0, 1, 2]
    assert [each["seconds"] for each in results] == pytest.approx([0, 0.2, 0.4])
    count = len(record["annotations"])
    assert [len(each["objects"]) for each in results] == [count, 0, count]
    with av.open(str(output / "clip.mp4")) as container:
        sizes = [(frame.height, frame.width) for frame in container.decode(video=0)]
    assert sizes == [(326, 5 * 404)] * 3
