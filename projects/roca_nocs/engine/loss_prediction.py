"""Training of the loss predictor on what a results cache kept."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from roca_nocs.data.coco_json import DatasetError, read_json
from roca_nocs.data.images import read_png
from roca_nocs.engine.results_cache import LOSSES_FILE
from roca_nocs.modeling.loss_prediction import LossPredictor, balancing_weights

__all__ = ["CachedMaps", "fit_loss_predictor"]

logger = logging.getLogger(__name__)


class CachedMaps(Dataset):
    """NOCS maps of a results cache with their losses: (3, H, W) float32 in [0, 1], float32."""

    def __init__(self, folder: str | Path) -> None:
        """
        Args:
            folder: that `ResultsCache` wrote.

        Raises:
            DatasetError: there is no list of losses, or it is empty.
        """
        path = Path(folder) / LOSSES_FILE
        entries = read_json(path)
        if not isinstance(entries, dict) or not entries:
            raise DatasetError(f"{path} lists no objects; expected {{file: loss}}.")
        self.files = [Path(folder) / name for name in entries]
        self.losses = torch.tensor(list(entries.values()), dtype=torch.float32)

    def select(self, indices: Sequence[int]) -> CachedMaps:
        """The maps at these positions."""
        chosen = copy.copy(self)
        chosen.files, chosen.losses = [self.files[i] for i in indices], self.losses[list(indices)]
        return chosen

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        # OpenCV reads blue first.
        pixels = torch.from_numpy(read_png(self.files[index])[..., ::-1].copy())
        return pixels.permute(2, 0, 1).float() / 255, self.losses[index]


def fit_loss_predictor(
    predictor: LossPredictor,
    maps: CachedMaps,
    validation: Dataset[Any],
    *,
    epochs: int = 10,
    batch_size: int = 64,
    lr: float = 1e-3,
    validation_period: int = 10,
    generator: torch.Generator | None = None,
) -> list[dict[str, float]]:
    """Minimise the squared error of the predicted losses with Adam.

    Maps are drawn by `balancing_weights`: most objects have about the same loss.

    Args:
        predictor: stays on its device.
        maps: of the training.
        validation: maps and losses like ``maps``.
        epochs: passes of as many draws as there are maps.
        batch_size: maps a step.
        lr: of Adam.
        validation_period: steps between two validations.
        generator: of the draws, on the CPU; None takes torch's global one.

    Returns:
        One dictionary per validation: ``step``, ``train_mse`` of the last batch, ``mse``.
    """
    device = next(predictor.parameters()).device
    weights = balancing_weights(maps.losses).tolist()
    sampler = WeightedRandomSampler(weights, len(maps), generator=generator)
    loader = DataLoader(maps, batch_size, sampler=sampler)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=lr)
    history: list[dict[str, float]] = []
    step = 0
    for _ in range(epochs):
        for images, losses in loader:
            predictor.train()
            error = F.mse_loss(predictor(images.to(device)), losses.to(device))
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            step += 1
            if step % validation_period == 0:
                mse = _validate(predictor, validation, batch_size, device)
                history.append({"step": step, "train_mse": error.item(), "mse": mse})
                logger.info("Step %(step)d: mse %(train_mse).4f, validation %(mse).4f", history[-1])
    return history


@torch.no_grad()
def _validate(
    predictor: LossPredictor, validation: Dataset[Any], batch_size: int, device: torch.device
) -> float:
    predictor.eval()
    total, count = torch.zeros((), device=device), 0
    for images, losses in DataLoader(validation, batch_size):
        total += (predictor(images.to(device)) - losses.to(device)).square().sum()
        count += len(losses)
    return float(total) / max(count, 1)
