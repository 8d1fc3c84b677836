"""CadReferences behaves as a field of Instances."""

import pytest
import torch
from detectron2.structures import Instances

from roca_nocs.structures import CadReferences

KEYS = [("03001627", "a"), ("03001627", "b"), ("04379243", "a")]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (1, [1]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([2, 2]), [2, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.zeros(3, dtype=torch.bool), []),
    ],
)
def test_indexing(item: object, expected: list[int]) -> None:
    assert list(CadReferences(KEYS)[item]) == [KEYS[i] for i in expected]


def test_as_a_field_of_instances() -> None:
    instances = Instances((4, 4), gt_cads=CadReferences(KEYS), gt_classes=torch.arange(3))
    kept = instances[instances.gt_classes > 0].to("cpu")
    both = Instances.cat([kept, instances])
    assert list(both.gt_cads) == [*KEYS[1:], *KEYS]


def test_empty_and_errors() -> None:
    empty = CadReferences([])
    assert len(empty) == 0 and len(empty[torch.zeros(0, dtype=torch.bool)]) == 0
    assert len(CadReferences.cat([empty, empty])) == 0
    with pytest.raises(ValueError, match=r"\(catalogue id, model id\), got \('a',\)"):
        CadReferences([("a",)])
