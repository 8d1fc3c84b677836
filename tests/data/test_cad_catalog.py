"""Catalogue of CAD models: voxels, points, files, pickles, candidates."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import trimesh

from roca_nocs.data.cad_catalog import (
    CadCatalog,
    CadEntry,
    load_cad_catalog,
    load_scene_candidates,
    occupied_voxels,
    surface_points,
)
from roca_nocs.data.coco_json import DatasetError


def make_entry(
    name: str, category_id: int = 5, catalog_id: str = "03001627", points: int = 8
) -> CadEntry:
    mesh = trimesh.creation.box((0.5, 0.7, 0.4))
    return CadEntry(
        catalog_id=catalog_id,
        model_id=name,
        category_id=category_id,
        symmetry="__SYM_ROTATE_UP_2",
        vertices=np.asarray(mesh.vertices, np.float32),
        faces=np.asarray(mesh.faces, np.int64),
        points=surface_points(mesh.vertices, mesh.faces, seed=0, count=points),
        voxels=np.array([[0, 1, 2], [31, 30, 29]], np.int32),
    )


@pytest.fixture
def catalog() -> CadCatalog:
    table = make_entry("t", category_id=8, catalog_id="04379243")
    return CadCatalog([make_entry("a"), make_entry("b"), table])


def assert_same(first: CadCatalog, second: CadCatalog) -> None:
    assert len(first) == len(second)
    for one, other in zip(first.entries, second.entries, strict=True):
        assert (one.key, one.category_id, one.symmetry) == (
            other.key,
            other.category_id,
            other.symmetry,
        )
        for name in ("vertices", "faces", "points", "voxels"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype


def test_voxels_of_a_plate_by_hand() -> None:
    # A square of side 1/4 in the plane z = 0: rows and columns -4..4 around the middle cell 16.
    vertices = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) / 8
    voxels = occupied_voxels(vertices, np.array([[0, 1, 2], [0, 2, 3]]))
    expected = [[16, y, x] for y in range(12, 21) for x in range(12, 21)]
    assert voxels.tolist() == expected


def test_points_lie_on_the_surface_and_follow_the_seed() -> None:
    mesh = trimesh.creation.box((0.2, 0.4, 0.6))
    points = surface_points(mesh.vertices, mesh.faces, seed=3, count=500)
    assert points.shape == (500, 3) and points.dtype == np.float32
    on_side = np.isclose(np.abs(points), np.array([0.1, 0.2, 0.3]), atol=1e-6).any(axis=1)
    assert on_side.all()
    again = surface_points(mesh.vertices, mesh.faces, seed=3, count=500)
    np.testing.assert_array_equal(points, again)
    assert not np.array_equal(points, surface_points(mesh.vertices, mesh.faces, 4, 500))


def test_lookup(catalog: CadCatalog) -> None:
    assert len(catalog) == 3
    assert ("03001627", "b") in catalog and ("03001627", "t") not in catalog
    assert catalog.index("03001627", "b") == 1
    assert catalog.indices_of_category(5).tolist() == [0, 1]
    assert catalog.indices_of_category(0).tolist() == []
    assert catalog.category_ids.tolist() == [5, 5, 8]
    with pytest.raises(KeyError, match=r"03001627/zz.*2 of this synset: a, b"):
        catalog.index("03001627", "zz")


def test_points_and_occupancy(catalog: CadCatalog) -> None:
    assert catalog.points().shape == (3, 8, 3)
    assert catalog.points([2, 0]).shape == (2, 8, 3)
    assert catalog.points([]).shape == (0, 0, 3)
    grids = catalog.occupancy(np.array([1]))
    assert grids.shape == (1, 32, 32, 32) and grids.sum() == 2
    assert grids[0, 0, 1, 2] and grids[0, 31, 30, 29]
    uneven = CadCatalog([make_entry("a"), make_entry("b", points=9)])
    with pytest.raises(ValueError, match=r"\[8, 9\] surface points"):
        uneven.points()


def test_repeated_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"twice.*'a'"):
        CadCatalog([make_entry("a"), make_entry("a")])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_files_round_trip_with_the_same_bytes(tmp_path: Path, count: int) -> None:
    catalog = CadCatalog([make_entry(f"m{i}") for i in range(count)])
    catalog.save(tmp_path / "cads")
    assert_same(CadCatalog.load(tmp_path / "cads"), catalog)
    assert catalog.to_bytes() == CadCatalog.load(tmp_path / "cads").to_bytes()


def test_damaged_files_are_named(tmp_path: Path, catalog: CadCatalog) -> None:
    stem = tmp_path / "cads"
    catalog.save(stem)
    (tmp_path / "cads.npz").write_bytes(b"PK not a zip")
    with pytest.raises(DatasetError, match=r"cads\.npz: missing or damaged"):
        CadCatalog.load(stem)
    catalog.save(stem)
    records = json.loads((tmp_path / "cads.json").read_text())
    del records["models"][1]["sym"]
    (tmp_path / "cads.json").write_text(json.dumps(records))
    with pytest.raises(DatasetError, match=r"models\[1\]: the field 'sym' is missing"):
        CadCatalog.load(stem)
    records["models"].pop()
    (tmp_path / "cads.json").write_text(json.dumps(records))
    with pytest.raises(DatasetError, match="different numbers of models"):
        CadCatalog.load(stem)


def write_pickles(folder: Path, catalog: CadCatalog) -> None:
    def keys(entry: CadEntry) -> dict:
        return {
            "catid_cad": entry.catalog_id,
            "id_cad": entry.model_id,
            "category_id": entry.category_id,
        }

    cads = [
        {**keys(e), "verts": e.vertices, "faces": e.faces, "sym": e.symmetry}
        for e in reversed(catalog.entries)
    ]
    points = [{**keys(e), "points": e.points} for e in catalog.entries]
    grids = {e.key: e.voxels for e in catalog.entries}
    for name, content in {
        "scan2cad_val_cads": cads,
        "points_val": points,
        "val_grids_32": grids,
    }.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content))


def test_published_pickles_are_read_and_ours_preferred(tmp_path: Path, catalog: CadCatalog) -> None:
    with pytest.raises(DatasetError, match=r"no CAD catalogue .*scan2cad_val_cads"):
        load_cad_catalog(tmp_path, "val")
    write_pickles(tmp_path, catalog)
    assert_same(load_cad_catalog(tmp_path, "val"), catalog)
    CadCatalog(catalog.entries[:1]).save(tmp_path / "scan2cad_val_cads")
    assert len(load_cad_catalog(tmp_path, "val")) == 1


def test_pickles_without_points_and_grids(tmp_path: Path, catalog: CadCatalog) -> None:
    write_pickles(tmp_path, catalog)
    (tmp_path / "points_val.pkl").unlink()
    (tmp_path / "val_grids_32.pkl").unlink()
    read = load_cad_catalog(tmp_path, "val")
    assert read.entries[0].points.shape == (0, 3)
    assert not read.occupancy().any()
    with pytest.raises(ValueError, match="surface points"):
        read.points()


def test_scene_candidates(tmp_path: Path) -> None:
    path = tmp_path / "scenes.json"
    chair = {"catid_cad": "03001627", "id_cad": "b"}
    path.write_text(json.dumps({"s0": [chair, chair, {**chair, "id_cad": "a"}], "s1": []}))
    assert load_scene_candidates(path) == {
        "s0": (("03001627", "a"), ("03001627", "b")),
        "s1": (),
    }
    path.write_text(json.dumps({"s0": [{"id_cad": "b"}]}))
    with pytest.raises(DatasetError, match="scene s0: the field 'catid_cad'"):
        load_scene_candidates(path)


def test_catalog_of_the_embedded_rooms(embedded_root: Path) -> None:
    folder = embedded_root / "rooms_tiny" / "Dataset"
    train, val = load_cad_catalog(folder, "train"), load_cad_catalog(folder, "val")
    assert (len(train), len(val)) == (72, 36)
    assert not {entry.key for entry in train.entries} & {entry.key for entry in val.entries}
    assert train.points().shape == (72, 1024, 3)
    filled = train.occupancy().reshape(72, -1).sum(axis=1)
    assert (filled > 100).all()
    for entry in val.entries:
        size = np.linalg.norm(np.ptp(entry.vertices, axis=0))
        assert size == pytest.approx(1, abs=1e-5)
        mesh = folder.parent / "CADs" / entry.catalog_id / entry.model_id / "models"
        loaded = trimesh.load(mesh / "model_normalized.obj", process=False)
        np.testing.assert_allclose(loaded.vertices, entry.vertices, atol=1e-6)
        np.testing.assert_array_equal(loaded.faces, entry.faces)


def test_glb_has_one_node_per_part(embedded_root: Path) -> None:
    folder = embedded_root / "rooms_tiny" / "CADs" / "03001627" / "chair_v00" / "models"
    whole = trimesh.load(folder / "model_normalized.obj", process=False)
    scene = trimesh.load(folder / "model_normalized.glb")
    assert len(scene.geometry) > 1
    assert sum(len(part.faces) for part in scene.geometry.values()) == len(whole.faces)
    np.testing.assert_allclose(scene.bounds, whole.bounds, atol=1e-6)
