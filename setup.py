"""Build of the roca_nocs package and of its compiled operators.

The C++ operators are always built; the CUDA ones when this machine has a CUDA device and a
toolkit, or when ``FORCE_CUDA=1`` asks for them (``TORCH_CUDA_ARCH_LIST`` then says for which
devices).
"""

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import find_packages, setup

try:
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    sys.exit(
        "roca_nocs compiles its operators against the installed torch, and there is none in this "
        "build environment. Install torch first, then: "
        "pip install -e . --no-build-isolation   (or let `make env` do all of it)"
    )

ROOT = Path(__file__).parent
SOURCES = ROOT / "projects" / "roca_nocs" / "layers" / "csrc"


def bundled_cuda_headers() -> list[str]:
    """Include folders of the CUDA packages that torch installs.

    A toolkit without the maths libraries lacks headers (cublas_v2.h, cusparse.h) that PyTorch's
    own headers include; the packages beside torch carry them.
    """
    site_packages = {sysconfig.get_paths()["purelib"], str(Path(torch.__file__).parents[1])}
    folders = [folder for site in site_packages for folder in Path(site).glob("nvidia/*/include")]
    return sorted(str(folder) for folder in folders)


def cuda_library_folders() -> list[str]:
    """Where the CUDA runtime lies in a toolkit that has `lib` instead of `lib64`."""
    return [str(path.parent) for path in Path(CUDA_HOME).glob("lib/libcudart.so")]


def extensions() -> list:
    forced = os.getenv("FORCE_CUDA", "0") == "1"
    with_cuda = forced or (torch.cuda.is_available() and CUDA_HOME is not None)
    if forced and CUDA_HOME is None:
        sys.exit("FORCE_CUDA=1 is set, but no CUDA toolkit (nvcc) was found; set CUDA_HOME.")
    sources = sorted(SOURCES.rglob("*.cpp"))
    # PyTorch's parallel loops are inlined here: without OpenMP they run on one thread.
    openmp = ["-fopenmp"] if sys.platform == "linux" else []
    compile_args = {"cxx": ["-O3", *openmp], "nvcc": ["-O3"]}
    macros = []
    extension = CppExtension
    if with_cuda:
        extension = CUDAExtension
        sources += sorted(SOURCES.rglob("*.cu"))
        macros = [("WITH_CUDA", None)]
    return [
        extension(
            "roca_nocs._C",
            [str(path.relative_to(ROOT)) for path in sources],
            include_dirs=[str(SOURCES), *(bundled_cuda_headers() if with_cuda else [])],
            library_dirs=cuda_library_folders() if with_cuda else [],
            define_macros=macros,
            extra_compile_args=compile_args,
            extra_link_args=openmp,
        )
    ]


setup(
    name="roca_nocs",
    version="0.1.0",
    description="3D objects from single images: a detectron2 extension",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    package_dir={"": "projects"},
    packages=find_packages("projects"),
    # detectron2 is on no package index: README.md says how it gets here.
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "fvcore>=0.1.5,<0.1.6",
        "pycocotools>=2.0.7",
        "numpy>=1.26,<3",
        "scipy>=1.10",
        "opencv-python-headless>=4.8",
        "trimesh>=4.4",
        "embreex>=2.17.7.post4",
        "roma>=1.5",
        "safetensors>=0.5",
        "tqdm>=4.60",
    ],
    extras_require={
        "eval": ["faster-coco-eval>=1.6"],
        "log": ["wandb"],
        "video": ["av>=12"],
        "viz": ["matplotlib>=3.8"],
        "dev": [
            "av>=12",
            "hypothesis",
            "manifold3d",
            "mypy",
            "pre-commit",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
        ],
    },
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExtension},
)
