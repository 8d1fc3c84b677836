"""Communication: alone, and between two real processes."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from processes import run_in_group, run_two


def test_single_process():
    assert (comm.get_world_size(), comm.get_rank()) == (1, 0)
    assert (comm.get_local_size(), comm.get_local_rank()) == (1, 0)
    assert comm.is_main_process()
    comm.synchronize()
    data = {"a": object()}
    assert comm.all_gather(data) == [data]
    assert comm.gather(data) == [data]
    assert comm.gather(data, dst=0)[0] is data
    losses = {"x": torch.tensor(1.0)}
    assert comm.reduce_dict(losses) is losses
    assert 0 <= comm.shared_random_seed() < 2**31


@pytest.mark.standalone_only
def test_local_group_of_a_single_process():
    comm.create_local_process_group(1)
    assert (comm.get_local_size(), comm.get_local_rank()) == (1, 0)
    with pytest.raises(ValueError, match="must divide the world size 1, got 2"):
        comm.create_local_process_group(2)
    with pytest.raises(RuntimeError, match="not yet created"):
        comm.get_local_process_group()


def run_worker(rank: int, folder: Path) -> None:
    """Exercise every function in one of two processes and store the results for the test."""
    results = {"before": local_rank_error()}
    comm.create_local_process_group(1)
    results["one_per_machine"] = (comm.get_local_size(), comm.get_local_rank())
    comm.synchronize()
    results["identity"] = (comm.get_world_size(), comm.get_rank(), comm.is_main_process())
    results["all_gather"] = comm.all_gather({"rank": rank, "size": "x" * (1 + 1000 * rank)})
    results["gather_0"] = comm.gather(rank)
    results["gather_1"] = comm.gather([rank], dst=1)
    results["seed"] = comm.shared_random_seed()
    values = {"b": torch.tensor(2.0 + rank), "a": torch.tensor(10.0 * rank)}
    results["mean"] = comm.reduce_dict(values)
    results["sum"] = comm.reduce_dict(values, average=False)
    results["inputs"] = values
    alone = dist.new_group([0]), dist.new_group([1])
    results["all_gather_alone"] = comm.all_gather(rank, group=alone[rank])
    torch.save(results, folder / f"result{rank}.pth")


def local_rank_error() -> str:
    try:
        comm.get_local_rank()
    except (AssertionError, RuntimeError) as error:
        return str(error)
    return ""


def test_two_processes(tmp_path):
    run_two(__file__, tmp_path, timeout=120)
    first, second = (torch.load(tmp_path / f"result{rank}.pth") for rank in range(2))
    assert "Local process group is not yet created" in first["before"]
    assert first["one_per_machine"] == second["one_per_machine"] == (1, 0)
    assert first["identity"] == (2, 0, True)
    assert second["identity"] == (2, 1, False)
    gathered = [{"rank": 0, "size": "x"}, {"rank": 1, "size": "x" * 1001}]
    assert first["all_gather"] == second["all_gather"] == gathered
    assert (first["gather_0"], second["gather_0"]) == ([0, 1], [])
    assert (first["gather_1"], second["gather_1"]) == ([], [[0], [1]])
    assert first["seed"] == second["seed"]
    assert first["mean"] == {"a": torch.tensor(5.0), "b": torch.tensor(2.5)}
    assert first["sum"] == {"a": torch.tensor(10.0), "b": torch.tensor(5.0)}
    assert second["inputs"] == {"a": torch.tensor(10.0), "b": torch.tensor(3.0)}
    assert (first["all_gather_alone"], second["all_gather_alone"]) == ([0], [1])


if __name__ == "__main__":
    run_in_group(run_worker)
