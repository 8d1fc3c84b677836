"""Per-instance quantities that can be fields of detectron2's ``Instances``."""

from roca_nocs.structures.cad_references import CadReferences

__all__ = ["CadReferences"]
