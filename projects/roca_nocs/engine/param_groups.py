"""Learning rates of parts of a model: factors for ``get_default_optimizer_params``.

They are named functions, so that a config that uses them can be saved and loaded again.
"""

from __future__ import annotations

__all__ = [
    "slow_backbone",
    "slow_backbone_and_sampling",
    "slow_proposals",
    "slow_sampling",
]


def slow_backbone(name: str) -> float:
    """A tenth for parameters of the backbone.

    Args:
        name: of a parameter, with dots.
    """
    return 0.1 if "backbone" in name else 1.0


def slow_backbone_and_sampling(name: str) -> float:
    """A tenth for the backbone and for what decides where deformable attention samples."""
    parts = ("backbone", "reference_points", "sampling_offsets")
    return 0.1 if any(part in name for part in parts) else 1.0


def slow_sampling(name: str) -> float:
    """A tenth for what decides where deformable attention samples."""
    return 0.1 if any(part in name for part in ("reference_points", "sampling_offsets")) else 1.0


def slow_proposals(name: str) -> float:
    """Two fifths for the proposal generator, where it is a transformer."""
    return 0.4 if name.startswith("proposal_generator.") else 1.0
