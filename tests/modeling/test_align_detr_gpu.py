"""Training of AlignDETR on a GPU, compared with the CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from modeling.steps import train_step
from modeling.tiny_align_detr import build_align_detr
from modeling.tiny_roca import make_input
from roca_nocs.modeling.transformer.denoising import DenoisingDraws

pytestmark = pytest.mark.gpu


def inputs() -> list[dict[str, Any]]:
    """Two sizes, so that there is padding, and an image without targets."""
    return [make_input(3, seed=1), make_input(2, size=(48, 64), seed=2), make_input(0, seed=3)]


def test_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = DenoisingDraws.sample

    def sample_on_host(rows: int, num_classes: int, device: torch.device, _: Any) -> DenoisingDraws:
        draws = sample(rows, num_classes, torch.device("cpu"))
        return DenoisingDraws(**{name: each.to(device) for name, each in vars(draws).items()})

    # The generators of devices draw other numbers.
    monkeypatch.setattr(DenoisingDraws, "sample", staticmethod(sample_on_host))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    model = build_align_detr()
    on_gpu = copy.deepcopy(model).cuda()
    expected, _ = train_step(model, inputs())
    losses, _ = train_step(on_gpu, inputs())
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss.is_cuda and loss.item() == pytest.approx(expected[name].item(), rel=1e-3), name
    other = dict(on_gpu.named_parameters())
    for name, parameter in model.named_parameters():
        difference = other[name].grad.cpu() - parameter.grad
        assert difference.norm() <= 1e-2 * parameter.grad.norm() + 1e-5, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mixed_precision(dtype: torch.dtype) -> None:
    """Losses and gradients are finite, also without scaling."""
    model = build_align_detr().cuda()
    with torch.autocast("cuda", dtype):
        losses, _ = train_step(model, inputs())
    assert all(loss.dtype == torch.float32 for loss in losses.values())
