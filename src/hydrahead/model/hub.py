"""A model argument as a local directory; a Hugging Face name is fetched into the cache."""

from pathlib import Path

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.hub import fetch_model
from hydrahead.core.records import refuse_half_done, refuse_other_kind

_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*")
"""Weights as safetensors, configurations, tokenizer files, licences; never a pickle or code."""
_UNWANTED = ("consolidated*", "original/*", "onnx/*", "*/pytorch/*")
"""Second copies of the weights in other layouts."""

_CONFIGURATIONS = ("config.json", "adapter_config.json")


def resolve_model_dir(model: str | Path) -> Path:
    """The directory of a model.

    Args:
        model: An existing directory, or a Hugging Face name ("Qwen/Qwen3-1.7B"), which is fetched
            with its weights unless the cache has it.

    Raises:
        HydraHeadError: neither a directory nor a name that can be fetched (unknown, gated, no
            network), or a directory that holds something else or that an interrupted command left
            half done.
    """
    path = Path(model).expanduser()
    if str(model) and path.is_dir():
        refuse_half_done(path)
        if not any((path / name).is_file() for name in _CONFIGURATIONS):
            refuse_other_kind(path, (), mend="give a model directory")
        return path
    if str(model) and path.exists():
        raise HydraHeadError("a file, not a model directory", where=path, mend="give its directory")
    return fetch_model(model, _WANTED, unwanted=_UNWANTED)
