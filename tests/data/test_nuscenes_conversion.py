"""Conversion of the tables of nuScenes and Lyft to clips of BEV rasters."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.nuscenes_files import write_tables
from roca_nocs.data.bev_clip import read_clip, read_meta
from roca_nocs.data.bev_mapper import BevClipMapper
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.bev_clips import load_bev_clips
from roca_nocs.data.nuscenes_conversion import LYFT, NUSCENES, convert, read_scenes
from roca_nocs.data.nuscenes_conversion.convert import scene_splits
from roca_nocs.data.nuscenes_conversion.tables import yaw_of

LYFT_CATEGORIES = ("car", "pedestrian", "Construction Vehicle")


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    return write_tables(tmp_path / "v1.0-mini", ("scene-0103", "scene-0916", "scene-0061"))


def test_numbers_of_clips_of_the_published_splits() -> None:
    assert NUSCENES.window == 7 and 6019 - 150 * (NUSCENES.window - 1) == 5119
    assert list(LYFT.kept) == [0, 2, 4, 6, 8, 10, 12, 14] and LYFT.kept_observed == 3
    scenes = [f"host-{number:03d}" for number in range(180)]
    splits = list(scene_splits(scenes, LYFT, None).values())
    assert (126 * splits.count("train"), 126 * splits.count("val")) == (16506, 6174)


def test_headings() -> None:
    yaw = np.array([0.3, -2.9, 3.1])
    pitch = np.array([0.2, -0.1, 0.0])
    # Turned about z after a pitch about y.
    quaternions = np.stack(
        [
            np.cos(yaw / 2) * np.cos(pitch / 2),
            -np.sin(yaw / 2) * np.sin(pitch / 2),
            np.cos(yaw / 2) * np.sin(pitch / 2),
            np.sin(yaw / 2) * np.cos(pitch / 2),
        ],
        axis=-1,
    )
    np.testing.assert_allclose(yaw_of(quaternions), yaw, atol=1e-12)


def test_nuscenes(tables: Path, tmp_path: Path) -> None:
    root = tmp_path / "nuscenes_bev"
    assert convert(tables, root, NUSCENES, progress=False) == {"train": 3, "val": 6}
    meta = read_meta(root)
    assert (meta.time_receptive_field, meta.n_future_frames, meta.frame_dt) == (3, 4, 0.5)
    assert [each.is_vehicle for each in meta.classes] == [False, True, True]
    records = load_bev_clips(root, "train")
    assert [record["clip_id"] for record in records] == [f"scene-0061-{i:04d}" for i in range(3)]
    clip = read_clip(root, "scene-0061-0001", meta)
    np.testing.assert_allclose(clip.ego_pose[:, :2], [(100.0, 51.0 + i) for i in range(7)])
    np.testing.assert_allclose(clip.ego_pose[:, 2], np.pi / 2)
    # The car stays ten metres ahead: rows 116..123, 4 m long, columns 98..101, 2 m wide.
    car = np.argwhere(clip.instance == 1)
    assert car[:, 0].tolist() == np.repeat(np.arange(7), 32).tolist()
    assert (car[:, 1].min(), car[:, 1].max(), car[:, 2].min(), car[:, 2].max()) == (
        *(116, 123),
        *(98, 101),
    )
    # The pedestrian blocks the view but is no label; the truck is none where it is hidden.
    assert not (clip.instance == 2).any() and (clip.raster[:, 0] > 0).any()
    truck = [(ids == 3).any() for ids in clip.instance]
    assert truck == [True, False, True, False, True, False, True]
    # World x = 90 is ten metres to the left.
    assert np.argwhere(clip.instance[0] == 3)[:, 0].mean() == pytest.approx(119.5 - 2 * 3)
    assert np.argwhere(clip.instance[0] == 3)[:, 1].mean() == pytest.approx(99.5 + 20)
    velocities = clip.agents.velocities
    np.testing.assert_allclose(velocities[:, 0], [[0.0, 2.0]] * 7, atol=1e-6)
    np.testing.assert_allclose(velocities[:, 2], 0.0, atol=1e-6)
    assert clip.timestamps[1] - clip.timestamps[0] == 500_000
    assert clip.tokens[0] == "scene-0061/1"
    sample = BevClipMapper()(records[1])
    assert sample["agents"]["ids"].tolist() == [1, 3]
    np.testing.assert_allclose(sample["agents"]["velocities"][0], [2.0, 0.0], atol=1e-6)
    # In the frame of the present the car drives on by two cells a step.
    rows = [np.argwhere(ids == 1)[:, 0].mean() for ids in sample["instance"].numpy()]
    np.testing.assert_allclose(np.diff(rows), 2.0)


def test_published_raster_is_wider(tables: Path, tmp_path: Path) -> None:
    root = tmp_path / "fiery"
    convert(tables, root, NUSCENES, raster="fiery", progress=False)
    clip = read_clip(root, "scene-0061-0001", read_meta(root))
    assert (clip.instance[0] == 1).sum() == 9 * 5
    with pytest.raises(DatasetError, match="holds another conversion"):
        convert(tables, root, NUSCENES, progress=False)
    with pytest.raises(ValueError, match="raster is 'round'"):
        convert(tables, root, NUSCENES, raster="round", progress=False)


def test_lyft(tmp_path: Path) -> None:
    scenes = tuple(f"host-{number}" for number in range(2))
    tables = write_tables(tmp_path / "train_data", scenes, LYFT_CATEGORIES, 200_000)
    short = LYFT.__class__("lyft_bev", 3, 4, 2, 0.4, ())
    counts = convert(tables, tmp_path / "out", short, progress=False, splits=_splits(tmp_path))
    assert counts == {"train": 3, "val": 3}
    meta = read_meta(tmp_path / "out")
    assert (meta.time_receptive_field, meta.n_future_frames) == (2, 2)
    assert [each.name for each in meta.classes if each.is_vehicle] == [
        "Construction Vehicle",
        "car",
    ]
    clip = read_clip(tmp_path / "out", "host-0-0000", meta)
    np.testing.assert_allclose(np.diff(clip.ego_pose[:, 1]), 2.0)
    assert all((ids == 3).any() for ids in clip.instance), "Lyft has no classes of visibility"


def _splits(folder: Path) -> Path:
    file = folder / "splits.json"
    file.write_text(json.dumps({"train": ["host-0"], "val": ["host-1"]}))
    return file


def test_an_interrupted_conversion_goes_on(tables: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    convert(tables, root, NUSCENES, progress=False)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    folder = root / "clips" / "scene-0061-0001"
    kept = (root / "clips" / "scene-0061-0000" / "input.npz").stat().st_mtime_ns
    (folder / "clip.json").unlink()
    (folder / "labels.npz").write_bytes(b"")
    convert(tables, root, NUSCENES, progress=False)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert (root / "clips" / "scene-0061-0000" / "input.npz").stat().st_mtime_ns == kept


def test_splits(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"is in no table\. Give a JSON file"):
        scene_splits([f"scene-{number:04d}" for number in range(850)], NUSCENES, None)
    file = tmp_path / "splits.json"
    for content, message in (
        ({"train": ["a"]}, "expected"),
        ({"train": ["a"], "val": ["a"]}, "a is in both splits"),
        ({"train": ["a"], "val": ["b"]}, "none of its scenes is in the tables"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(DatasetError, match=message):
            scene_splits(["scene-0001"], NUSCENES, file)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("sample_annotation", {"size": [1.0, 2.0]}, "'size' has the wrong length"),
        ("sample_annotation", {"instance_token": "x"}, "instance 'x' is not in its table"),
        ("sample_data", {"is_key_frame": False}, "has no key frame of LIDAR_TOP"),
        ("scene", {"first_sample_token": "x"}, "sample 'x' is not in its table"),
    ],
)
def test_damaged_tables(tables: Path, table: str, change: dict, message: str) -> None:
    path = tables / f"{table}.json"
    records = json.loads(path.read_text())
    records[0] |= change
    path.write_text(json.dumps(records))
    with pytest.raises(DatasetError, match=message):
        list(read_scenes(tables, ("1",)))


def test_missing_table(tables: Path) -> None:
    (tables / "sensor.json").unlink()
    with pytest.raises(DatasetError, match=r"sensor\.json: no such file"):
        list(read_scenes(tables, ("1",)))
