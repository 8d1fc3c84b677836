"""Similarity of 64 instances by RANSAC, at once against a loop over instances and samples."""

import numpy as np
import roma
import torch
from timing import compare

from roca_nocs.geometry.ransac import draw_samples
from roca_nocs.geometry.similarity import umeyama_ransac

INSTANCES = 64
POINTS = 28 * 28
ITERATIONS = 128
SAMPLE_SIZE = 5


def problem(outliers: float) -> tuple[torch.Tensor, ...]:
    """Source, target, valid, samples of random poses, 1 % noise and a share of wrong sources."""
    torch.manual_seed(0)
    source = torch.rand(INSTANCES, POINTS, 3) - 0.5
    rotation, scale = roma.random_rotmat(INSTANCES), torch.rand(INSTANCES, 1, 1) * 0.3 + 0.1
    target = scale * source @ rotation.mT + torch.tensor([0.0, 0.0, 1.0])
    source += 0.01 * torch.randn(source.shape)
    wrong = torch.rand(INSTANCES, POINTS) < outliers
    source = torch.where(wrong[..., None], torch.rand(source.shape) - 0.5, source)
    valid = torch.ones(INSTANCES, POINTS, dtype=torch.bool)
    return source, target, valid, draw_samples(valid, ITERATIONS, SAMPLE_SIZE)


def umeyama(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    u, values, vh = np.linalg.svd((target - target_mean).T @ centred / len(source))
    signs = np.array([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vh))])
    rotation = (u * signs) @ vh
    scale = (values * signs).sum() / centred.var(axis=0).sum()
    return scale, rotation, target_mean - scale * rotation @ source_mean


def by_loop(
    source: np.ndarray, target: np.ndarray, samples: np.ndarray
) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """The same rule, with its early stop, sample by sample."""
    results = []
    for x, y, instance_samples in zip(source, target, samples, strict=True):
        diameter = 2 * np.linalg.norm(x - x.mean(axis=0), axis=1).max()
        best, best_inliers = 0.0, np.ones(len(x), bool)
        for iteration, sample in enumerate(instance_samples):
            scale, rotation, translation = umeyama(x[sample], y[sample])
            residuals = np.linalg.norm(y - scale * x @ rotation.T - translation, axis=1)
            inliers = residuals < 0.1 * diameter * scale
            if inliers.mean() > best:
                best, best_inliers = inliers.mean(), inliers
            if 1 - (1 - best**SAMPLE_SIZE) ** iteration > 0.99:
                break
        results.append(umeyama(x[best_inliers], y[best_inliers]))
    return results


def main() -> None:
    for outliers in (0.0, 0.2, 0.4):
        source, target, valid, samples = problem(outliers)
        arrays = [each.numpy() for each in (source, target, samples)]
        ours = umeyama_ransac(source, target, valid, samples=samples)
        for row, (scale, rotation, translation) in enumerate(by_loop(*arrays)):
            np.testing.assert_allclose(ours.rotation[row], rotation, atol=1e-3)
            np.testing.assert_allclose(ours.translation[row], translation, atol=1e-3)
            np.testing.assert_allclose(ours.scale[row], scale, rtol=1e-3)
        compare(
            f"Umeyama RANSAC {INSTANCES} x {POINTS}, {outliers:.0%} outliers, vs NumPy loop over "
            "instances and samples",
            lambda arrays=arrays: by_loop(*arrays),
            lambda s=source, t=target, v=valid, n=samples: umeyama_ransac(s, t, v, samples=n),
        )


if __name__ == "__main__":
    main()
