"""Models named on Hugging Face: what can be such a name, and fetching one into the cache.

A mistyped path must not end in a wait for the network, so only OWNER/NAME whose OWNER is no local
folder is asked for there. Nothing is fetched but what the caller lists: no pickle, no code.
"""

from collections.abc import Sequence
from pathlib import Path

from hydrahead.core.errors import HydraHeadError, did_you_mean


def fetch_model(model: str | Path, wanted: Sequence[str], *, unwanted: Sequence[str] = ()) -> Path:
    """The cache's directory of a model that is not a local directory.

    Args:
        model: A Hugging Face name, OWNER/NAME. A `Path` is never one.
        wanted: Patterns of the files to fetch, unless the cache has them.
        unwanted: Patterns of files to leave out nevertheless.

    Raises:
        HydraHeadError: This cannot be such a name, or it cannot be fetched (unknown, gated, no
            network).
    """
    if isinstance(model, Path) or not _can_be_hub_name(model):
        raise _no_directory(model)
    # Imported here: a local directory must not need the hub client. `snapshot_download` rather
    # than `hf_hub_download`, which without a network tries six times before it gives up.
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(
            snapshot_download(model, allow_patterns=list(wanted), ignore_patterns=list(unwanted))
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise HydraHeadError(
            f"neither a directory nor a model that can be fetched from Hugging Face "
            f"({_reason(error)})",
            where=model,
            mend="check the name and the network (and, for a gated model, that you are logged in)",
        ) from error


def _can_be_hub_name(model: str) -> bool:
    owner, slash, name = model.partition("/")
    if not (owner and slash and name) or "/" in name or "\\" in model:
        return False
    return not owner.startswith((".", "~")) and not Path(owner).exists()


def _no_directory(model: str | Path) -> HydraHeadError:
    """The error for a path that is not there; names what stands beside it and looks alike."""
    path = Path(model).expanduser()
    try:
        beside = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        beside = []
    mend = did_you_mean(path.name, beside) or "check the path"
    if not isinstance(model, Path) and "/" not in model:
        mend += "; a Hugging Face name is OWNER/NAME"
    return HydraHeadError("no such directory", where=str(model) or None, mend=mend)


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return "it is gated"
    if isinstance(error, RepositoryNotFoundError):
        return "there is none of this name, or it is private"
    if isinstance(error, LocalEntryNotFoundError):
        return "it is not in the cache, and Hugging Face cannot be reached"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
