"""Counts per class by hand, and of the embedded rooms."""

from pathlib import Path

import pytest
import torch

from roca_nocs.data.class_frequencies import class_frequencies, count_classes
from roca_nocs.data.datasets.scan2cad import CLASSES, image_repeat_factors, load_scan2cad


def image(scene: str, *objects: tuple[str, int]) -> dict:
    annotations = [
        {"category_id": CLASSES.index(name), "alignment_id": number} for name, number in objects
    ]
    return {"scene_id": scene, "annotations": annotations}


# Two views of a room with two chairs and a bed (repeated four times), another room, no object.
RECORDS = [
    image("a", ("chair", 1), ("chair", 2), ("bed", 3)),
    image("a", ("chair", 2)),
    image("b", ("chair", 1), ("table", 2)),
    image("c"),
]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("image", {"chair": 2 * 4 + 1 + 2, "bed": 4, "table": 2}),
        ("cad", {"chair": 3, "bed": 1, "table": 1}),
        ("none", dict.fromkeys(CLASSES, 1)),
    ],
)
def test_by_hand(mode: str, expected: dict[str, int]) -> None:
    counts = count_classes(RECORDS, len(CLASSES), mode)
    assert counts.dtype == torch.float32
    assert counts.tolist() == [expected.get(name, 0) for name in CLASSES]


def test_no_records() -> None:
    for mode in ("image", "cad"):
        assert count_classes([], 9, mode).tolist() == [0] * 9


def test_errors() -> None:
    with pytest.raises(ValueError, match="mode of class frequencies is 'cads'"):
        count_classes(RECORDS, 9, "cads")
    with pytest.raises(ValueError, match="category_id is 5"):
        count_classes(RECORDS, 5, "image")


def test_registered_dataset(embedded_names: Path) -> None:
    folder = embedded_names / "rooms_tiny"
    path = folder / "Dataset/scan2cad_instances_train.json"
    records = load_scan2cad(path, folder / "Images", folder / "Rendering")
    factors = image_repeat_factors(records)
    counts = class_frequencies("rooms_tiny_train", "image")
    total = sum(f * len(r["annotations"]) for f, r in zip(factors, records, strict=True))
    assert counts.sum() == total and (counts > 0).all()
    filtered = class_frequencies("rooms_tiny_train", "image", center_filter=True)
    assert (filtered <= counts).all() and filtered.sum() < total
    assert (class_frequencies("rooms_tiny_train", "cad") <= counts).all()
    assert class_frequencies("rooms_tiny_train", "none").tolist() == [1] * 9
