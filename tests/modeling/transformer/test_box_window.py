"""The window of a mask: where it is, how it moves, and that it tells equal objects apart."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling.tiny_future_detector import build_detector
from roca_nocs.modeling.transformer.mask_heads import BoxWindow, DotMaskHead, SharedParts

CENTRES = st.tuples(st.integers(4, 28), st.integers(4, 20))


def window_of(boxes: torch.Tensor, size: tuple[int, int], **coefficients: float) -> torch.Tensor:
    window = BoxWindow(8)
    names = ("one", "a", "b", "aa", "ab", "bb")
    with torch.no_grad():
        for name, value in coefficients.items():
            window.coefficients.bias[names.index(name)] = value
        return window(torch.zeros(len(boxes), 8), boxes, size)


def box(x: float, y: float, w: float, h: float, size: tuple[int, int]) -> torch.Tensor:
    """Of corners and sides in cells."""
    height, width = size
    return torch.tensor([[x / width, y / height, w / width, h / height]])


def test_new_windows_cover_their_boxes() -> None:
    """Zero in the middle of an edge, 2 at the centre, -2 at a corner."""
    size = (24, 32)
    (found,) = window_of(box(10.5, 8.5, 12, 6, size), size)
    assert found[8, 10] == pytest.approx(2)
    assert found[8, 4].item() == pytest.approx(0, abs=1e-5)
    assert found[5, 10].item() == pytest.approx(0, abs=1e-5)
    assert found[5, 4].item() == pytest.approx(-2, abs=1e-5)
    assert found.max() == found[8, 10]
    assert (found > 0).sum() == pytest.approx(12 * 6 * torch.pi / 4, rel=0.1)


@given(CENTRES, CENTRES)
def test_windows_move_with_their_boxes(first: tuple[int, int], second: tuple[int, int]) -> None:
    size = (24, 32)
    boxes = torch.cat([box(*centre, 7, 5, size) for centre in (first, second)])
    one, two = window_of(boxes, size, a=0.5, b=-1.0, ab=3.0)
    shift = (second[1] - first[1], second[0] - first[0])
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    rows, columns = rows + shift[0], columns + shift[1]
    inside = (rows >= 0) & (rows < 24) & (columns >= 0) & (columns < 32)
    moved = two[rows[inside], columns[inside]]
    torch.testing.assert_close(moved, one[inside], atol=1e-3, rtol=1e-3)


def test_windows_turn_with_their_coefficients() -> None:
    """The mixed term makes ellipses along a diagonal, for agents that are not aligned with axes."""
    size = (32, 32)
    (found,) = window_of(box(16, 16, 12, 12, size), size, ab=14.0)
    assert found[11, 20] < -1 < 0 < found[11, 11]
    torch.testing.assert_close(found, found.T)


def test_far_cells_and_flat_boxes_stay_finite() -> None:
    size = (96, 96)
    boxes = torch.cat([box(1, 1, 0, 0, size), box(48, 48, 1e-6, 200, size)]).requires_grad_()
    window = BoxWindow(8)
    queries = torch.randn(2, 8, requires_grad=True)
    torch.nn.init.normal_(window.coefficients.weight)
    found = window(queries, boxes, size)
    assert found.isfinite().all() and found.abs().max() < 1e4
    found.sigmoid().sum().backward()
    assert queries.grad is not None and queries.grad.isfinite().all()
    assert boxes.grad is None


def test_equal_queries_at_two_places_have_two_masks() -> None:
    """Without the window their inner products are the same everywhere."""
    torch.manual_seed(0)
    size = (24, 32)
    head = DotMaskHead(16, (), gn_groups=1, window=True).eval()
    shared = SharedParts(torch.randn(1, 16, *size), (), (size,))
    queries = torch.randn(1, 16).expand(2, 16)
    boxes = torch.cat([box(6, 6, 5, 5, size), box(26, 16, 5, 5, size)])
    images = torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        first, second = head(shared, queries, images, boxes) > 0
    assert first.any() and second.any()
    assert not (first & second).any()
    with pytest.raises(ValueError, match="needs the boxes"):
        head(shared, queries, images)


def test_boxes_of_an_image_are_those_of_its_valid_part() -> None:
    """The same box lies further left in a padded map, and in the same place of a raster."""
    detector = build_detector(mask_type="dot", mask_window=True).eval()
    padding = torch.zeros(1, 32, 64, dtype=torch.bool)
    padding[..., 32:] = True
    boxes = torch.tensor([[0.5, 0.5, 0.25, 0.25]])
    columns = []
    with torch.no_grad():
        detector.mask_head.query_embed.layers[-1].weight.zero_()
        for whole in (False, True):
            encoded = detector.encode(torch.zeros(1, 3, 32, 64), padding, whole=whole)
            rows = (torch.zeros(1, 32), torch.zeros(1, dtype=torch.int64), boxes)
            (mask,) = detector.masks(encoded)(*rows)
            columns.append(int(mask.amax(dim=0).argmax()) + 0.5)
    assert columns == pytest.approx([8, 16], abs=0.6)
