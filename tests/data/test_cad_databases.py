"""CAD databases of registered datasets and of files; joining of catalogues."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from data.test_cad_catalog import make_entry
from roca_nocs.data.cad_catalog import CadCatalog, load_cad_catalog, load_scene_candidates
from roca_nocs.data.cad_databases import (
    build_cad_database,
    catalog_sources,
    make_database,
    merge_catalogs,
    read_cad_database,
    stored_sources,
)
from roca_nocs.data.coco_json import DatasetError

BOTH = {"voxels": True, "points": True}


def test_database_of_a_registered_dataset(embedded_names: Path) -> None:
    folder = embedded_names / "rooms_tiny" / "Dataset"
    catalog = load_cad_catalog(folder, "val")
    database = build_cad_database("rooms_tiny_val", **BOTH)
    assert database.keys == tuple(entry.key for entry in catalog.entries)
    assert database.category_ids.tolist() == catalog.category_ids.tolist()
    np.testing.assert_array_equal(database.voxels.numpy(), catalog.occupancy())
    np.testing.assert_array_equal(database.points.numpy(), catalog.points())
    tags = ("__SYM_NONE", "__SYM_ROTATE_UP_2", "__SYM_ROTATE_UP_4", "__SYM_ROTATE_UP_INF")
    assert [tags[number] for number in database.symmetries.tolist()] == list(catalog.symmetries)

    candidates = load_scene_candidates(folder / "scan2cad_val_scenes.json")
    assert set(database.scenes) == set(candidates) and len(candidates) == 8
    for scene, rows in database.scenes.items():
        assert sorted(database.keys[row] for row in rows.tolist()) == list(candidates[scene])


def test_shapes_are_made_when_asked_for(embedded_names: Path) -> None:
    database = build_cad_database("rooms_tiny_train", voxels=False, points=True)
    assert database.voxels is None and database.points.dtype == torch.float32
    assert not database.scenes
    assert build_cad_database("rooms_tiny_train", voxels=True, points=False).points is None


def test_datasets_that_share_a_catalogue_and_those_that_do_not(embedded_names: Path) -> None:
    assert len(catalog_sources(["rooms_tiny_train", "rooms_tiny_val_seen"])) == 1
    joined = build_cad_database(["rooms_tiny_val", "rooms_tiny_train"], **BOTH)
    assert len(joined) == 9 * 12
    for name in ("rooms_tiny_val", "rooms_tiny_train"):
        alone = build_cad_database(name, **BOTH)
        rows = [joined.keys.index(key) for key in alone.keys]
        assert torch.equal(joined.points[rows], alone.points)
        assert torch.equal(joined.voxels[rows], alone.voxels)
        assert torch.equal(joined.category_ids[rows], alone.category_ids)
        for scene, members in alone.scenes.items():
            names = sorted(alone.keys[row] for row in members.tolist())
            assert sorted(joined.keys[row] for row in joined.scenes[scene].tolist()) == names


def test_joined_models_keep_their_own_shapes() -> None:
    first, second = make_entry("a"), make_entry("b", category_id=8, catalog_id="04379243")
    object.__setattr__(second, "points", second.points + 1)
    object.__setattr__(second, "voxels", np.array([[5, 6, 7]], np.int32))
    repeated = make_entry("a", category_id=3)
    merged = merge_catalogs([CadCatalog([first]), CadCatalog([repeated, second])])
    assert [entry.key for entry in merged.entries] == [first.key, second.key]
    assert merged.category_ids.tolist() == [5, 8]
    database = make_database(merged, "here", {"s": [second.key]}, **BOTH)
    assert torch.equal(database.points, torch.from_numpy(np.stack([first.points, second.points])))
    assert database.voxels[1].nonzero().tolist() == [[5, 6, 7]]
    assert database.scenes["s"].tolist() == [1]
    assert len(merge_catalogs([])) == 0


def test_files_and_folders(tmp_path: Path, embedded_root: Path) -> None:
    chairs = CadCatalog([make_entry("a"), make_entry("b")])
    chairs.save(tmp_path / "chairs.v2")
    for name in ("chairs.v2", "chairs.v2.json", "chairs.v2.npz", "."):
        database = read_cad_database(tmp_path / name, **BOTH)
        assert [key[1] for key in database.keys] == ["a", "b"] and not database.scenes
    rooms = embedded_root / "rooms_tiny" / "Dataset"
    assert len(read_cad_database(rooms, **BOTH)) == 9 * 12
    assert len(read_cad_database(rooms / "scan2cad_val_cads", **BOTH)) == 9 * 4
    assert [str(each) for each in stored_sources(rooms)] == [
        str(rooms / f"scan2cad_{split}_cads") for split in ("train", "val")
    ]


def test_a_folder_of_published_pickles(tmp_path: Path) -> None:
    entry = make_entry("a")
    record = {"catid_cad": entry.catalog_id, "id_cad": "a", "category_id": 5, "sym": "__SYM_NONE"}
    files = {
        "scan2cad_train_cads.pkl": [record | {"verts": entry.vertices, "faces": entry.faces}],
        "train_grids_32.pkl": {entry.key: entry.voxels},
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(pickle.dumps(content))
    database = read_cad_database(tmp_path, voxels=True, points=False)
    assert database.keys == (entry.key,) and database.voxels.sum() == 2
    with pytest.raises(DatasetError, match=r"1 of 1 CAD models have no points, .*points_<split>"):
        read_cad_database(tmp_path, voxels=False, points=True)


def test_missing_parts_are_named(tmp_path: Path, embedded_names: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no CAD catalogue"):
        read_cad_database(tmp_path, **BOTH)
    with pytest.raises(DatasetError, match=r"There is no CAD catalogue .*nothing\.json"):
        read_cad_database(tmp_path / "nothing", **BOTH)
    with pytest.raises(DatasetError, match=r"'tabletop_tiny_val' names no CAD catalogue"):
        build_cad_database("tabletop_tiny_val", **BOTH)
    with pytest.raises(DatasetError, match=r"'no_such_name' names no CAD catalogue"):
        build_cad_database("no_such_name", **BOTH)
    MetadataCatalog.pop("no_such_name")
    catalog = CadCatalog([make_entry("a")])
    with pytest.raises(DatasetError, match=r"Scene s names .* 03001627/z .*, which here lacks"):
        make_database(catalog, "here", {"s": [("03001627", "z")]}, **BOTH)
