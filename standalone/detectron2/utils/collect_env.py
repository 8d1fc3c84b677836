"""A text report about the software and hardware a program runs on."""

import importlib
import os
import sys
from collections import defaultdict

import detectron2
import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]

_LIBRARIES = ("numpy", "torchvision", "PIL", "fvcore", "iopath", "omegaconf", "pycocotools", "cv2")


def _library_row(name: str) -> tuple[str, str]:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return name, f"not available: {error}"
    version = getattr(module, "__version__", "version unknown")
    return name, f"{version} @{os.path.dirname(module.__file__)}"


def _gpu_rows() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPU available", "No: torch.cuda.is_available() == False")]
    by_name = defaultdict(list)
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        by_name[f"{torch.cuda.get_device_name(index)} (arch={major}.{minor})"].append(str(index))
    rows = [("GPU available", "Yes"), ("CUDA of torch", str(torch.version.cuda))]
    rows += [(f"GPU {','.join(indices)}", name) for name, indices in by_name.items()]
    rows.append(("CUDA_HOME", os.environ.get("CUDA_HOME", "<not set>")))
    return rows


def collect_env_info() -> str:
    """Versions and places of the libraries, the GPUs, and torch's build settings, as a table."""
    rows = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("detectron2", f"{detectron2.__version__} @{os.path.dirname(detectron2.__file__)}"),
        ("PyTorch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("PyTorch debug build", str(torch.version.debug)),
    ]
    rows += _gpu_rows()
    rows += [_library_row(name) for name in _LIBRARIES]
    return tabulate(rows, disable_numparse=True) + "\n" + torch.__config__.show()


if __name__ == "__main__":
    print(collect_env_info())
