"""Proposal generators, registered in detectron2's PROPOSAL_GENERATOR registry."""

from roca_nocs.modeling.proposal_generator.align_detr_proposals import AlignDETRProposals
from roca_nocs.modeling.proposal_generator.padded_rpn import PaddedRPN

__all__ = ["AlignDETRProposals", "PaddedRPN"]
