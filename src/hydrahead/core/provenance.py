"""Where a result came from: the commit and the library versions it was made with."""

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_LIBRARIES = (
    "hydrahead",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "triton",
    "fla-core",
)
_CHECKOUT = Path(__file__).resolve().parents[3]


@functools.cache
def git_commit() -> str | None:
    """The commit of the source checkout this package runs from, or None for an installed package.

    Ends in `-changed` when tracked files differ from that commit.
    """
    if not ((_CHECKOUT / ".git").exists() and (_CHECKOUT / "src" / "hydrahead").is_dir()):
        return None
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}-changed" if _git("status", "--porcelain", "--untracked-files=no") else commit


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries results depend on, without importing them."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_CHECKOUT), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
