"""What runs fast kernels on a device: fla, Triton, TileLang, and the GPU's family."""

import functools
import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass

import torch

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuStack:
    """Versions found, None where a library is missing."""

    fla: str | None
    triton: str | None
    tilelang: str | None
    """None also where fla would not use it: switched off, or no CUDA compiler for it."""
    hopper: bool

    def __str__(self) -> str:
        named = (("fla", self.fla), ("triton", self.triton), ("tilelang", self.tilelang))
        return ", ".join(f"{name} {version}" for name, version in named if version)


def version_tuple(version: str) -> Version:
    """The first three numbers of a version: "3.6.0+cu128" -> (3, 6, 0), "3.7" -> (3, 7, 0)."""
    numbers: list[int] = []
    for part in version.split("+")[0].split("."):
        digits = ""
        for character in part:
            if not character.isdigit():
                break
            digits += character
        if not digits:
            break
        numbers.append(int(digits))
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch


@functools.cache
def detect_stack(device: torch.device) -> GpuStack:
    """Look once at the libraries and at `device`, a CUDA device."""
    fla = _version("fla", "fla-core", "flash-linear-attention")
    triton = _version("triton", "triton", "pytorch-triton")
    return GpuStack(
        fla=fla,
        triton=triton,
        tilelang=_tilelang() if fla and triton else None,
        hopper=torch.cuda.get_device_capability(device)[0] == 9,
    )


def _version(module: str, *distributions: str) -> str | None:
    if importlib.util.find_spec(module) is None:
        return None
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return str(getattr(importlib.import_module(module), "__version__", "0"))


def _tilelang() -> str | None:
    version = _version("tilelang", "tilelang")
    if version is None or os.environ.get("FLA_DISABLE_BACKEND_DISPATCH") == "1":
        return None
    try:
        from fla.ops.common.backends.tilelang import (  # pyright: ignore[reportMissingImports]
            CommonTileLangBackend,
        )
    except ImportError:
        return None
    return version if CommonTileLangBackend.can_use() else None
