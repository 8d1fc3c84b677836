"""Models: meta architectures, heads and the networks they are made of.

Importing the package registers them with detectron2.
"""

from roca_nocs.modeling import meta_arch as _meta_arch  # noqa: F401
