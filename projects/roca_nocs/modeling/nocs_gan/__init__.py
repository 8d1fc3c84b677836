"""Adversarial training of NOCS maps: discriminators, their objectives, and the critique.

The optimisation itself is `roca_nocs.engine.adversarial.AdversarialTrainer`.
"""
