"""The table of per-object fields."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances


class Names:
    """The smallest field type of one's own: a list of strings."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: object) -> Names:
        return Names([self.names[i] for i in torch.arange(len(self))[item].reshape(-1).tolist()])

    def to(self, *args: object, **kwargs: object) -> Names:
        return Names(list(self.names))

    @staticmethod
    def cat(values: list[Names]) -> Names:
        return Names([name for value in values for name in value.names])


def example() -> Instances:
    return Instances(
        (10, 20),
        gt_boxes=Boxes(torch.arange(12.0).reshape(3, 4)),
        gt_classes=torch.tensor([3, 1, 2]),
        names=Names(["a", "b", "c"]),
    )


def test_fields_are_attributes() -> None:
    instances = example()
    instances.scores = torch.ones(3)
    assert instances.image_size == (10, 20)
    assert instances.has("scores") and instances.get("scores") is instances.scores
    assert list(instances.get_fields()) == ["gt_boxes", "gt_classes", "names", "scores"]
    instances.remove("scores")
    assert not instances.has("scores") and not hasattr(instances, "scores")


def test_private_attributes_are_not_fields() -> None:
    instances = example()
    instances._note = 5
    assert instances._note == 5 and not instances.has("_note")


def test_missing_field() -> None:
    with pytest.raises(AttributeError, match="Cannot find field 'depth' in the given Instances!"):
        _ = example().depth
    with pytest.raises(KeyError):
        example().get("depth")
    with pytest.raises(KeyError):
        example().remove("depth")


def test_lengths_must_agree() -> None:
    message = "Adding a field of length 2 to a Instances of length 3"
    with pytest.raises(AssertionError, match=message):
        example().scores = torch.ones(2)


@pytest.mark.parametrize("value", [1.0, torch.tensor(1.0)])
def test_scalars_are_no_fields(value: object) -> None:
    with pytest.raises(TypeError):
        Instances((1, 1)).score = value


def test_without_fields() -> None:
    instances = Instances((4, 4))
    with pytest.raises(NotImplementedError, match="Empty Instances does not support __len__!"):
        len(instances)


def test_is_not_iterable() -> None:
    with pytest.raises(NotImplementedError):
        iter(example())


@pytest.mark.parametrize("index", range(-3, 3))
def test_integer_index_keeps_one(index: int) -> None:
    one = example()[index]
    assert len(one) == 1
    assert one.gt_classes.tolist() == [[3, 1, 2][index]]
    assert one.gt_boxes.tensor.shape == (1, 4)
    assert one.names.names == [["a", "b", "c"][index]]
    assert one.image_size == (10, 20)


@pytest.mark.parametrize("index", [3, -4])
def test_integer_index_out_of_range(index: int) -> None:
    with pytest.raises(IndexError):
        example()[index]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (slice(1, None), [1, 2]),
        (slice(0, 0), []),
        ([2, 0], [2, 3]),
        (torch.tensor([True, False, True]), [3, 2]),
        (torch.tensor([1, 1]), [1, 1]),
        (torch.zeros(0, dtype=torch.long), []),
    ],
)
def test_other_indices_go_to_the_fields(item: object, expected: list[int]) -> None:
    chosen = example()[item]
    assert chosen.gt_classes.tolist() == expected
    assert len(chosen.gt_boxes) == len(chosen.names) == len(expected)


def test_to_converts_what_can_be_converted() -> None:
    instances = Instances((2, 2), mask=BitMasks(torch.ones(1, 2, 2)), word=["x"])
    moved = instances.to("cpu")
    assert moved is not instances
    assert moved.word is instances.word
    assert torch.equal(moved.mask.tensor, instances.mask.tensor)


def test_cat() -> None:
    first, second = example(), example()[1:]
    first.words, second.words = ["p", "q", "r"], ["s", "t"]
    second.extra = torch.zeros(2)
    joined = Instances.cat([first, second])
    assert len(joined) == 5
    assert joined.gt_classes.tolist() == [3, 1, 2, 1, 2]
    assert joined.names.names == ["a", "b", "c", "b", "c"]
    assert joined.words == ["p", "q", "r", "s", "t"]
    assert isinstance(joined.gt_boxes, Boxes) and not joined.has("extra")


def test_cat_of_one_is_the_same_object() -> None:
    instances = example()
    assert Instances.cat([instances]) is instances


def test_cat_refuses() -> None:
    with pytest.raises(AssertionError):
        Instances.cat([])
    with pytest.raises(AssertionError):
        Instances.cat([example(), Instances((1, 1), gt_classes=torch.zeros(1))])
    with pytest.raises(KeyError):
        Instances.cat([example(), Instances((10, 20), gt_classes=torch.zeros(1))])
    with pytest.raises(ValueError, match="concat"):
        Instances.cat([Instances((1, 1), field=range(2)), Instances((1, 1), field=range(2))])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(duplicate: object) -> None:
    instances = Instances((10, 20), scores=torch.ones(2))
    other = duplicate(instances)
    other.scores[0] = 5
    assert instances.scores.tolist() == [1, 1]
    assert other.image_size == (10, 20)


def test_text_names_the_fields() -> None:
    text = str(example())
    assert "num_instances=3" in text and "image_height=10" in text and "gt_classes" in text


@pytest.mark.standalone_only
def test_text_without_fields() -> None:
    assert repr(Instances((4, 6))) == (
        "Instances(num_instances=0, image_height=4, image_width=6, fields=[])"
    )
