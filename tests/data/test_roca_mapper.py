"""RocaMapper: fields, CAD pairs of retrieval, seeds, errors, what inference gets."""

import itertools
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from data.scene_record import write_record
from data.test_cad_catalog import make_entry
from roca_nocs.data import retrieval_targets
from roca_nocs.data.cad_catalog import CadCatalog, load_cad_catalog
from roca_nocs.data.loader import build_train_loader
from roca_nocs.data.retrieval_targets import RetrievalTargets
from roca_nocs.data.roca_mapper import RocaMapper
from roca_nocs.data.transforms import ColorJitter, RandomCameraRoll

TRAIN = "rooms_tiny_train"


@pytest.fixture
def records(embedded_names: Path) -> list[dict[str, Any]]:
    return DatasetCatalog.get(TRAIN)[:6]


def mapper(shapes: str | None = "voxels", **changes: Any) -> RocaMapper:
    arguments = {"augmentations": [], "retrieval": shapes, "datasets": TRAIN} | changes
    return RocaMapper(True, **arguments)


@pytest.mark.parametrize("shapes", ["voxels", "points"])
def test_pairs_are_the_models_of_the_catalogue(
    embedded_names: Path, records: list[dict[str, Any]], shapes: str
) -> None:
    catalog = load_cad_catalog(embedded_names / "rooms_tiny/Dataset", "train")
    everything = catalog.points() if shapes == "points" else catalog.occupancy()[:, None]
    by_content = {shape.tobytes(): row for row, shape in enumerate(everything)}
    assert len(by_content) > 0.9 * len(catalog)
    map_record = mapper(shapes)
    for record in records:
        instances = map_record(record)["instances"]
        assert len(instances) > 0
        expected = torch.bool if shapes == "voxels" else torch.float32
        assert instances.gt_pos_cads.dtype == instances.gt_neg_cads.dtype == expected
        rows = [catalog.index(*key) for key in instances.gt_cads]
        np.testing.assert_array_equal(instances.gt_pos_cads.numpy(), everything[rows])
        for row, negative in zip(rows, instances.gt_neg_cads.numpy(), strict=True):
            other = by_content[np.ascontiguousarray(negative).tobytes()]
            assert catalog.category_ids[other] == catalog.category_ids[row]


def test_fields_follow_the_instances(records: list[dict[str, Any]]) -> None:
    result = mapper("points")(records[0])
    instances = result["instances"]
    for name in ("gt_rotations", "gt_translations", "gt_scales", "gt_symmetries"):
        assert len(instances.get(name)) == len(instances)
    assert result["depth"].shape == result["instance"].shape == result["image"].shape[1:]
    assert result["intrinsics"].shape == (3, 3) and result["scene_id"] == records[0]["scene_id"]
    assert len(instances[:1].gt_pos_cads) == 1
    empty = mapper("voxels")({**records[0], "annotations": []})["instances"]
    assert empty.gt_pos_cads.shape == empty.gt_neg_cads.shape == (0, 1, 32, 32, 32)


def test_depth_of_the_scene(records: list[dict[str, Any]]) -> None:
    objects, scene = (mapper(None, scene_depth=each)(records[0]) for each in (False, True))
    assert "depth_full" not in scene
    known = objects["depth"] > 0
    assert 0 < known.sum() < known.numel()
    assert (scene["depth"] > 0).sum() > known.sum()
    on_objects = objects["instance"] > 0
    torch.testing.assert_close(scene["depth"][on_objects], objects["depth"][on_objects])


def test_without_retrieval_there_are_no_models(records: list[dict[str, Any]]) -> None:
    result = mapper(None, datasets=())(records[0])
    assert not result["instances"].has("gt_pos_cads")
    assert result["instances"].has("gt_rotations") and "depth" in result


def test_inference_reads_image_and_camera(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    for name in ("instance", "depth", "nocs"):
        Path(record[f"{name}_file_name"]).unlink()
    result = RocaMapper(False, augmentations=[], retrieval="voxels", datasets="nowhere")(record)
    assert set(result) == {
        *("image", "intrinsics", "scene_id", "image_id", "file_name", "height", "width")
    }
    # A picture of one's own: no scene, intrinsics as an array.
    own = {"file_name": record["file_name"], "intrinsics": record["intrinsics"]}
    assert set(mapper_for_pictures()(own)) == {
        "file_name",
        "image",
        "intrinsics",
        "height",
        "width",
    }


def mapper_for_pictures() -> RocaMapper:
    return RocaMapper(False, augmentations=[])


def negatives(loader: Any, count: int) -> list[torch.Tensor]:
    batches = itertools.islice(loader, count)
    return [sample["instances"].gt_neg_cads for batch in batches for sample in batch]


def test_negatives_follow_the_seed_of_the_loader(records: list[dict[str, Any]]) -> None:
    def run(seed: int, workers: int, position: int = 0, count: int = 4) -> list[torch.Tensor]:
        loader = build_train_loader(
            records,
            mapper=mapper("points", augmentations=[RandomCameraRoll(5), ColorJitter()]),
            total_batch_size=2,
            num_workers=workers,
            seed=seed,
        )
        loader.load_state_dict(loader.state_dict() | {"position": position})
        return negatives(loader, count)

    first = run(1, 0)
    for other in (run(1, 2), run(1, 0)):
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    resumed = run(1, 0, position=2, count=2)
    assert all(torch.equal(a, b) for a, b in zip(first[4:], resumed, strict=True))
    different = run(2, 0)
    assert not all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, different, strict=True)
    )


def test_mapper_is_pickled_without_the_models(records: list[dict[str, Any]]) -> None:
    original = mapper("voxels")
    content = pickle.dumps(original)
    assert len(content) < 10_000
    torch.manual_seed(3)
    expected = original(records[0])["instances"].gt_neg_cads
    torch.manual_seed(3)
    assert torch.equal(pickle.loads(content)(records[0])["instances"].gt_neg_cads, expected)


def test_models_are_read_once(
    records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mapper("voxels")
    monkeypatch.setattr(retrieval_targets, "load_sources", pytest.fail)
    mapper("voxels")(records[0])


def catalog_of(*classes: int) -> CadCatalog:
    """Models 0, 1, ... of the given classes; the voxel (0, 0, k) tells them apart."""
    entries = [make_entry(f"m{k}", category_id=c, catalog_id="x") for k, c in enumerate(classes)]
    for k, entry in enumerate(entries):
        object.__setattr__(entry, "voxels", np.array([[0, 0, k]], np.int32))
    return CadCatalog(entries)


def test_negatives_are_even_over_the_other_models_of_the_class() -> None:
    targets = RetrievalTargets(catalog_of(4, 2, 4, 4, 2, 4), "voxels", "here")
    torch.manual_seed(0)
    draws = torch.stack([targets.draw_negatives(torch.arange(6)) for _ in range(3000)])
    for row, others in enumerate([(2, 3, 5), (4,), (0, 3, 5), (0, 2, 5), (1,), (0, 2, 3)]):
        counts = torch.bincount(draws[:, row], minlength=6).numpy()
        assert set(np.flatnonzero(counts)) == set(others)
        # Five standard deviations of a binomial draw.
        assert np.abs(counts[list(others)] - 3000 / len(others)).max() < 5 * np.sqrt(3000 / 4)
    shapes = targets.shapes(torch.tensor([3, 0]))
    assert shapes.nonzero().tolist() == [[0, 0, 0, 0, 3], [1, 0, 0, 0, 0]]
    assert targets.draw_negatives(torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert targets.rows([("x", "m5"), ("x", "m0")]).tolist() == [5, 0]


def test_a_class_of_one_model_takes_negatives_of_others(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        targets = RetrievalTargets(catalog_of(7, 2, 2, 5), "voxels", "here")
    assert caplog.text.count("2 classes have a single CAD model") == 1
    torch.manual_seed(0)
    draws = torch.stack([targets.draw_negatives(torch.arange(4)) for _ in range(300)])
    assert [set(draws[:, row].tolist()) for row in range(4)] == [{1, 2, 3}, {2}, {1}, {0, 1, 2}]


def test_errors_of_the_catalogue(embedded_names: Path) -> None:
    with pytest.raises(ValueError, match="shapes of CAD models is 'meshes'"):
        mapper("meshes")
    with pytest.raises(ValueError, match="here has 1 CAD models"):
        RetrievalTargets(catalog_of(1), "voxels", "here")
    with pytest.raises(ValueError, match="'no_such_name' names no CAD catalogue"):
        mapper("voxels", datasets="no_such_name")
    MetadataCatalog.pop("no_such_name")


def test_unknown_model_is_named(records: list[dict[str, Any]]) -> None:
    annotation = records[0]["annotations"][-1]
    annotation["model"] = {"catid_cad": "03001627", "id_cad": "chair_v99"}
    with pytest.raises(ValueError) as caught:
        mapper()(records[0])
    message = str(caught.value)
    assert records[0]["file_name"] in message
    assert f"annotation {annotation['annotation_id']}: 'model' is 03001627/chair_v99" in message
    assert "scan2cad_train_cads lacks" in message
