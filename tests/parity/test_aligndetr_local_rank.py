"""Ranks inside the group of each target against the published implementation."""

from pathlib import Path

import pytest
import torch

from parity.aligndetr_arrays import Arrays, cases, load
from roca_nocs.modeling.criteria.ia_bce import local_rank


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Arrays:
    return load(golden_dir / "aligndetr" / "local_rank.npz")


def check(case: Arrays) -> None:
    groups = case["img_idx"] * (case["tgt_idx"].max() + 1) + case["tgt_idx"]
    torch.testing.assert_close(local_rank(case["quality"], groups), case["rank"], rtol=0, atol=0)


def test_ranks(golden: Arrays) -> None:
    for _, case in cases(golden):
        check(case)


@pytest.mark.parametrize("prefix", ["gap_", "uneq_"])
def test_targets_without_matches_and_groups_of_unequal_size(golden: Arrays, prefix: str) -> None:
    check({k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)})
