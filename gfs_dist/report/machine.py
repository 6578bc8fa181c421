"""Facts of the machine of a run and versions of its packages, nothing private."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "gfs-dist",
    "torch",
    "ray",
    "numpy",
    "hydra-core",
    "omegaconf",
    "safetensors",
    "torch-pruning",
    "scikit-learn",
    "matplotlib",
)


def machine() -> dict[str, Any]:
    """Facts of this machine, JSON-ready: no host name, user, address or environment variable.

    Returns:
        ``cpu`` (model, else architecture), ``cores`` (this process may use), ``memory_bytes``
        (physical), ``gpus`` (names), ``python``, ``os``.
    """
    facts = Path("/proc/cpuinfo")
    text = facts.read_text(encoding="utf-8") if facts.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    gpus = range(torch.cuda.device_count())
    return {
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [torch.cuda.get_device_name(index) for index in gpus],
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Version of every package that can change a result, of those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an optional package, or a plain checkout of ours
    return found
