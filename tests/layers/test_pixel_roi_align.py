"""ROI align at single cells against torchvision's."""

import pytest
import torch
from torchvision.ops import roi_align

from roca_nocs.layers.masked_pixels import MaskedPixels
from roca_nocs.layers.pixel_roi_align import pixel_roi_align


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
def test_values_and_gradients(sampling_ratio: int) -> None:
    random = torch.Generator().manual_seed(sampling_ratio)
    features = torch.randn(2, 5, 12, 17, generator=random)
    boxes = torch.tensor(
        [
            [1.2, 2.7, 9.1, 8.3],
            [-2.0, -3.0, 25.0, 20.0],  # over all borders
            [16.2, 3.0, 16.4, 11.9],  # narrower than a pixel
            [-9.0, -9.0, -5.0, -4.0],  # outside
            [0.0, 0.0, 17.0, 12.0],
        ]
    )
    image_indices = torch.tensor([0, 1, 0, 1, 1])
    masks = (torch.rand(5, 1, 4, 6, generator=random) > 0.4).float()
    pixels = MaskedPixels.of(masks)
    cotangent = torch.randn(len(pixels.rows), 5, generator=random)

    theirs = features.clone().requires_grad_()
    regions = torch.cat([image_indices[:, None].float(), boxes], dim=1)
    pooled = roi_align(theirs, regions, (4, 6), 1.0, sampling_ratio, aligned=False)
    expected = pixels.gather(pooled)
    expected.backward(cotangent)

    ours = features.clone().requires_grad_()
    values = pixel_roi_align(ours, boxes, image_indices, pixels, sampling_ratio)
    values.backward(cotangent)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_nothing_to_sample() -> None:
    features = torch.randn(1, 3, 4, 4, requires_grad=True)
    for masks in (torch.zeros(0, 1, 2, 2), torch.zeros(2, 1, 2, 2)):
        count = len(masks)
        boxes = torch.ones(count, 4)
        index = torch.zeros(count, dtype=torch.int64)
        values = pixel_roi_align(features, boxes, index, MaskedPixels.of(masks))
        assert values.shape == (0, 3)
        values.sum().backward()
    assert not features.grad.any()


def test_float32_under_autocast() -> None:
    features = torch.randn(1, 3, 8, 8).bfloat16()
    boxes, index = torch.tensor([[0.0, 0, 8, 8]]), torch.zeros(1, dtype=torch.int64)
    pixels = MaskedPixels.of(torch.ones(1, 1, 2, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = pixel_roi_align(features, boxes, index, pixels)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, pixel_roi_align(features.float(), boxes, index, pixels))
