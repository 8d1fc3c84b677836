"""Training of the default config on the CPU: two gloo processes against one process, two threads.

Both train on the same global batches of the tiny rooms; the figure is the median time of an
iteration, from the metrics that training writes, after two iterations of warm-up.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import WARM_UPS

ROOT = Path(__file__).parents[1]
ITERATIONS = 12


def train(datasets: Path, output: Path, processes: int, threads: int) -> float:
    """Milliseconds per iteration of tools/train_net.py."""
    command = [
        *(sys.executable, "-W", "ignore", str(ROOT / "tools/train_net.py")),
        *("--config-file", str(ROOT / "configs/mask_rcnn/rooms_r18.py")),
        *("--num-gpus", "0", "--num-processes", str(processes)),
        f"train.output_dir={output}",
        f"train.max_iter={ITERATIONS}",
        "train.log_period=1",
        "train.eval_period=0",
        "train.best.metric=null",
        "train.checkpointer.period=1000",
        "dataloader.train.dataset.names=rooms_tiny_train",
        "dataloader.test.dataset.names=rooms_tiny_val",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment["DETECTRON2_DATASETS"] = str(datasets)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    lines = (output / "metrics.json").read_text().splitlines()
    times = [record["time"] for record in map(json.loads, lines) if "time" in record]
    return 1e3 * statistics.median(times[WARM_UPS:])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make = [sys.executable, str(ROOT / "datasets/prepare_embedded.py"), "--kind", "rooms"]
        make += ["--preset", "tiny", "--output", str(root / "rooms_tiny")]
        subprocess.run(make, check=True, capture_output=True)
        baseline = train(root, root / "threads", processes=1, threads=2)
        ours = train(root, root / "processes", processes=2, threads=1)
    result = {
        "name": "training step of rooms_r18, batch 8: 2 processes vs 1 process with 2 threads",
        "device": "cpu",
        "threads": 2,
        "baseline_ms": round(baseline, 1),
        "ours_ms": round(ours, 1),
        "ratio": round(baseline / ours, 2),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
