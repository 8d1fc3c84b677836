"""Per-instance quantities that can be fields of detectron2's ``Instances``, and CAD databases."""

from roca_nocs.structures.cad_database import CadDatabase
from roca_nocs.structures.cad_references import CadReferences

__all__ = ["CadDatabase", "CadReferences"]
