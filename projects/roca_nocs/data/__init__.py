"""Datasets and what leads from them to model inputs."""
