"""Models: meta architectures, heads and the networks they are made of.

Importing the package registers them with detectron2.
"""

from roca_nocs.modeling import meta_arch as _meta_arch  # noqa: F401
from roca_nocs.modeling import proposal_generator as _proposal_generator  # noqa: F401
from roca_nocs.modeling.roi_heads import mono3d_heads as _mono3d_heads  # noqa: F401
from roca_nocs.modeling.roi_heads import roca_region_heads as _region_heads  # noqa: F401
