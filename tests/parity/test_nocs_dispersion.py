"""The bare formulas of the dispersion loss against ganocs, on arbitrary inputs."""

from pathlib import Path

import numpy as np
import torch

from roca_nocs.modeling.criteria.dispersion import (
    dispersion,
    mean_distribution,
    target_distribution,
)


def test_dispersion(golden_dir: Path) -> None:
    with np.load(golden_dir / "nocs" / "nocs_loss_ganocs.npz", allow_pickle=False) as file:
        arrays = {
            name.removeprefix("classification/"): torch.from_numpy(file[name])
            for name in file.files
            if name.startswith("classification/")
        }
    values, target = arrays["pred_of_matched_class"], arrays["roi_target"]
    num_bins = values.shape[2]
    everywhere = torch.ones_like(target[:, 0], dtype=torch.bool)
    used = mean_distribution(values, everywhere)
    torch.testing.assert_close(
        dispersion(used, reference="axes").mean(),
        arrays["dispersion_untargeted"],
        atol=1e-5,
        rtol=1e-5,
    )
    bins = (target * (num_bins - 1)).round().long()
    torch.testing.assert_close(
        dispersion(used, target_distribution(bins, everywhere, num_bins)).mean(),
        arrays["dispersion_targeted_index"],
        atol=1e-5,
        rtol=1e-5,
    )
