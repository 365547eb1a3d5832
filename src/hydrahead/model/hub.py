"""A model argument as a local directory; a Hugging Face name is fetched into the cache."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from hydrahead.core.errors import HydraHeadError

_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*")
"""Weights as safetensors, configurations, tokenizer files, licences; never a pickle or code."""
_UNWANTED = ("consolidated*", "original/*", "onnx/*", "*/pytorch/*")
"""Second copies of the weights in other layouts."""


def resolve_model_dir(model: str | Path) -> Path:
    """The directory of a model.

    Args:
        model: An existing directory, or a Hugging Face name ("Qwen/Qwen3-1.7B"), which is fetched
            with its weights unless the cache has it.

    Raises:
        HydraHeadError: neither a directory nor a name that can be fetched (unknown, gated, no
            network).
    """
    path = Path(model).expanduser()
    if str(model) and path.is_dir():
        return path
    if path.exists():
        raise HydraHeadError("a file, not a model directory", where=path, mend="give its directory")
    name = str(model)
    if isinstance(model, Path) or not _could_be_hub_name(name):
        raise HydraHeadError("no such directory", where=name or None, mend="check the path")
    try:
        return Path(
            snapshot_download(name, allow_patterns=list(_WANTED), ignore_patterns=list(_UNWANTED))
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise HydraHeadError(
            f"neither a directory nor a model that can be fetched from Hugging Face ({reason})",
            where=name,
            mend="check the name and the network (and, for a gated model, that you are logged in)",
        ) from error


def _could_be_hub_name(name: str) -> bool:
    return bool(name) and name.count("/") <= 1 and not name.startswith((".", "/", "~"))
