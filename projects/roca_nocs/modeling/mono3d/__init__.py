"""Fixed-size tensors of monocular 3D boxes: padding, alignment with the ground truth, selection.

Pure functions of plain tensors. B images; every padded tensor has its rows in dimension 1, valid
rows first, and comes with a boolean mask (B, K, 1). What stands in the other rows never changes a
result.
"""
