"""Conversion of nuScenes and Lyft Level 5 from their JSON tables to clips of BEV rasters."""

from .convert import convert
from .sources import LYFT, NUSCENES, SOURCES, Source
from .tables import read_scenes

__all__ = ["LYFT", "NUSCENES", "SOURCES", "Source", "convert", "read_scenes"]
