"""Backbones beyond those of detectron2."""
