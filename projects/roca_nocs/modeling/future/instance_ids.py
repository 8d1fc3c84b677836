"""Masks of queries to maps of instance ids over time, and ids of independent frames linked."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment

from roca_nocs.geometry.bev import BevGrid

MIN_PROBABILITY = 0.5


def instance_maps(
    existence: torch.Tensor,
    masks: torch.Tensor,
    ids: torch.Tensor,
    *,
    min_value: float = 0.3,
    min_area: int = 4,
    foreground: torch.Tensor | None = None,
) -> torch.Tensor:
    """Each cell to the query that claims it most, with the same id at all steps.

    Args:
        existence: (S, n) probability that the object of a query is there, of S steps.
        masks: (S, n, H, W) probability that a cell belongs to it.
        ids: (n,) int64, positive and unique.
        min_value: least product of both.
        min_area: segments of fewer cells of a step are removed.
        foreground: (S, H, W) bool, cells that may belong to an instance; None for all.

    Returns:
        (S, H, W) int32, 0 for background.
    """
    steps, count, height, width = masks.shape
    if count == 0:
        return torch.zeros((steps, height, width), dtype=torch.int32, device=masks.device)
    best, query = (masks * existence[:, :, None, None]).max(dim=1)
    sure = masks.gather(1, query[:, None])[:, 0] >= MIN_PROBABILITY
    inside = (best >= min_value) & sure
    if foreground is not None:
        inside = inside & foreground
    segment = query + count * torch.arange(steps, device=query.device)[:, None, None]
    area = segment[inside].bincount(minlength=steps * count)
    inside = inside & (area >= min_area)[segment]
    return torch.where(inside, ids[query], 0).to(torch.int32)


def trajectories(instances: torch.Tensor, ids: torch.Tensor, grid: BevGrid) -> torch.Tensor:
    """Centroids of instances in metres.

    Args:
        instances: (S, H, W) int32.
        ids: (n,) int64, unique.
        grid: of the maps.

    Returns:
        (S, n, 2) float32 (x, y); NaN where an instance is absent.
    """
    steps, count = len(instances), len(ids)
    # Sums per step and instance over the cells that have one of the ids.
    order = ids.argsort()
    ordered = torch.cat([ids[order], ids.new_tensor([torch.iinfo(torch.int64).max])])
    step, row, column = (instances > 0).nonzero().unbind(dim=1)
    value = instances[step, row, column].long()
    place = torch.searchsorted(ordered, value)
    known = ordered[place] == value
    segment = (step * count + torch.cat([order, order.new_zeros(1)])[place])[known]
    size = steps * count
    cells = torch.stack([row, column], dim=-1)[known].double()
    area = segment.bincount(minlength=size).double()[:, None]
    total = cells.new_zeros(size, 2).index_add(0, segment, cells)
    # 0 / 0 is NaN: the instance is absent.
    return grid.cells_to_metres(total / area).view(steps, count, 2).float()


def link_by_flow(
    per_frame: torch.Tensor, flow: torch.Tensor, max_distance: float = 3.0
) -> torch.Tensor:
    """Ids over time for instances that every frame numbers for itself.

    The centroid of an instance, moved by its mean forward flow, is assigned to the centroids of the
    next frame at least total distance; pairs of ``max_distance`` and more are no pairs. An instance
    without predecessor gets a new id. Source: FIERY (Hu et al., ICCV 2021).

    Args:
        per_frame: (T, H, W) integer, 0 for background, in each frame the ids 1, 2, ...
        flow: (T, 2, H, W) forward flow in cells, channel 0 along rows and 1 along columns.
        max_distance: in cells.

    Returns:
        (T, H, W) int64, the ids of the first frame continued.
    """
    linked = [per_frame[0].long()]
    largest = int(per_frame[0].max())
    for index in range(1, len(per_frame)):
        before, after = linked[-1], per_frame[index].long()
        old_ids, new_ids = (each.unique()[each.unique() > 0] for each in (before, after))
        mapping = torch.zeros(int(after.max()) + 1, dtype=torch.int64, device=after.device)
        if len(old_ids) and len(new_ids):
            moved = _centroids(before, old_ids, flow[index - 1].double())
            found = _centroids(after, new_ids)
            distances = torch.cdist(moved, found)
            rows, columns = (
                torch.as_tensor(each, device=after.device)
                for each in linear_sum_assignment(distances.cpu().numpy())
            )
            near = distances[rows, columns] < max_distance
            mapping[new_ids[columns[near]]] = old_ids[rows[near]]
        born = new_ids[mapping[new_ids] == 0]
        mapping[born] = largest + 1 + torch.arange(len(born), device=after.device)
        largest += len(born)
        linked.append(mapping[after])
    return torch.stack(linked)


def _centroids(
    instances: torch.Tensor, ids: torch.Tensor, flow: torch.Tensor | None = None
) -> torch.Tensor:
    """(n, 2) float64 mean (row, column) of instances, cells moved by a flow (2, H, W)."""
    row, column = (instances > 0).nonzero().unbind(dim=1)
    cells = torch.stack([row, column], dim=-1).double()
    if flow is not None:
        cells = cells + flow[:, row, column].T
    segment = torch.searchsorted(ids, instances[row, column])
    total = cells.new_zeros(len(ids), 2).index_add(0, segment, cells)
    return total / segment.bincount(minlength=len(ids))[:, None]
