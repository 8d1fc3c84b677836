"""Look-up of proposal generators by the name in a yacs config."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import nn

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")
PROPOSAL_GENERATOR_REGISTRY.__doc__ = (
    "Proposal generators; called with ``(cfg, dict[str, ShapeSpec])`` and returning a module."
)


def build_proposal_generator(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module | None:
    """Build ``cfg.MODEL.PROPOSAL_GENERATOR.NAME``; ``"PrecomputedProposals"`` means none.

    Args:
        cfg: the full yacs config.
        input_shape: shape of every feature map of the backbone.
    """
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if name == "PrecomputedProposals":
        return None
    return PROPOSAL_GENERATOR_REGISTRY.get(name)(cfg, input_shape)
