"""What retrieval learns from: the CAD model of an object and another one that it is not."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import numpy as np
import torch

from roca_nocs.data.cad_catalog import GRID_SIZE, CadCatalog, CadKey
from roca_nocs.data.cad_databases import CatalogSource, check_shapes, load_sources

logger = logging.getLogger(__name__)

SHAPES = ("voxels", "points")


class RetrievalTargets:
    """Shapes of the CAD models of a catalogue, and the models that stand for "another one".

    Args:
        catalog: at least two models.
        shapes: ``"voxels"`` or ``"points"``.
        source: where the catalogue comes from, for messages.

    Raises:
        ValueError: unknown ``shapes``, fewer than two models, or a model without such a shape.
    """

    def __init__(self, catalog: CadCatalog, shapes: str, source: str) -> None:
        if shapes not in SHAPES:
            raise ValueError(f"shapes of CAD models is {shapes!r}; expected one of {SHAPES}")
        if len(catalog) < 2:
            raise ValueError(
                f"{source} has {len(catalog)} CAD models; retrieval learns from pairs of different "
                "models, at least two"
            )
        check_shapes(catalog, source, voxels=shapes == "voxels", points=shapes == "points")
        self.source = source
        self._index = {entry.key: row for row, entry in enumerate(catalog.entries)}
        self._shapes = _packed_voxels(catalog) if shapes == "voxels" else catalog.points()
        self._packed = shapes == "voxels"

        # Models sorted by class: those of a class are neighbours.
        order = np.argsort(catalog.category_ids, kind="stable")
        self._sorted = torch.from_numpy(order)
        self._place = torch.from_numpy(np.argsort(order))
        _, member_of, counts = np.unique(
            catalog.category_ids[order], return_inverse=True, return_counts=True
        )
        starts = np.cumsum(counts) - counts
        # A class of one has no other model: all classes stand in for it.
        alone = counts == 1
        starts, counts = np.where(alone, 0, starts), np.where(alone, len(catalog), counts)
        self._starts = torch.from_numpy(starts[member_of])
        self._counts = torch.from_numpy(counts[member_of])
        if alone.any():
            logger.warning(
                "%s: %d classes have a single CAD model; the negatives of these %d models are "
                "drawn from the other classes.",
                *(source, alone.sum(), alone.sum()),
            )

    def rows(self, keys: Sequence[CadKey]) -> torch.Tensor:
        """Rows of models, (N,) int64.

        Raises:
            KeyError: with the first (synset, model id) that the catalogue lacks.
        """
        return torch.tensor([self._index[key] for key in keys], dtype=torch.int64)

    def draw_negatives(self, rows: torch.Tensor) -> torch.Tensor:
        """For each model another one of its class, evenly, from torch's global generator.

        Args:
            rows: (N,) int64.

        Returns:
            (N,) int64; of another class where a class has a single model.
        """
        place = self._place[rows]
        starts, counts = self._starts[place], self._counts[place]
        share = torch.rand(len(rows), dtype=torch.float64)
        drawn = starts + (share * (counts - 1)).long()
        # The model itself is left out: places from its own on move up by one.
        return self._sorted[drawn + (drawn >= place)]

    def shapes(self, rows: torch.Tensor) -> torch.Tensor:
        """(N, 1, 32, 32, 32) bool voxels with axes z, y, x, or (N, P, 3) float32 points."""
        chosen = self._shapes[rows.numpy()]
        if not self._packed:
            return torch.from_numpy(chosen)
        size = (len(chosen), 1, GRID_SIZE, GRID_SIZE, GRID_SIZE)
        return torch.from_numpy(np.unpackbits(chosen, axis=1).reshape(size).astype(bool))


def _packed_voxels(catalog: CadCatalog) -> np.ndarray:
    """(M, 4096) uint8: eight cells in a byte, 12 MB for the 3000 models of Scan2CAD."""
    grids = [np.packbits(catalog.occupancy([row])) for row in range(len(catalog))]
    return np.stack(grids)


@functools.cache
def load_retrieval_targets(sources: tuple[CatalogSource, ...], shapes: str) -> RetrievalTargets:
    """The targets of a dataset, read once per process; forked workers share those of the parent.

    Args:
        sources: of the catalogues, see :func:`roca_nocs.data.cad_databases.catalog_sources`.
        shapes: ``"voxels"`` or ``"points"``.

    Raises:
        ValueError: see :class:`RetrievalTargets`.
        DatasetError: a catalogue is missing or damaged.
    """
    names = ", ".join(map(str, sources))
    return RetrievalTargets(load_sources(sources), shapes, names)
