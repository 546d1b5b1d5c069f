"""Describe where a number comes from: hardware, versions and commit."""

import contextlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import numpy
import torch


def cpu(field: str) -> str:
    """Return a field of /proc/cpuinfo; empty where there is no such file."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""


def hardware(device: torch.device) -> str:
    """Describe the device, for the metadata of a result."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = cpu("model name") or platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def versions() -> dict:
    """Return the versions of the packages that a result depends on; None for a missing one."""
    packages: dict[str, str | None] = {}
    for name in ("torchvision", "pyautoattack", "advertorch"):
        packages[name] = None
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **packages,
        "numpy": numpy.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }


def git_commit() -> str | None:
    """Return the commit of this checkout, with "+changes" where files differ from it.

    None outside a checkout.
    """
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+changes" * bool(changed)
