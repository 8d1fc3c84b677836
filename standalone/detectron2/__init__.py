"""The part of detectron2 that roca_nocs needs, in pure Python."""

__version__ = "0.6+standalone"
