"""Deformable transformers of the DETR family: encoder, two-stage proposals, decoder, denoising."""
