"""The models under test: directories, Hugging Face names, or models already in memory.

What can be known from configurations and tokenizers (names, context limits, plans, costs) is known
before any weights are read, so that a mistake is reported before any work.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.fingerprints import hash_text
from hydrahead.core.jsonio import read_json
from hydrahead.core.records import fingerprint
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.tasks.codec import TokenizerCodec, codec_from_tokenizer

_LIMIT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length")
_HASHED_NUMBERS = 4096


class LoadedModel(NamedTuple):
    """A model in memory; a plain tuple of the same three things does as well."""

    model: Any
    """Anything with transformers' `generate`, call and `config`."""
    tokenizer: Any
    name: str


ModelSource = str | Path | LoadedModel | tuple[Any, Any, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model under test, its weights not yet read unless it was handed over."""

    name: str
    source: str | None
    directory: Path | None
    config: dict[str, Any]
    tokenizer: Any
    codec: TokenizerCodec
    fingerprint: str
    plan: HeadPlan | None
    """The hybrid's plan; all-full for a checkpoint of a known family; None for any other."""
    loaded: Any | None

    @property
    def max_positions(self) -> int | None:
        """The longest context its configuration allows; None where it names none."""
        inner = self.config.get("text_config")
        for config in (self.config, inner if isinstance(inner, dict) else {}):
            for key in _LIMIT_KEYS:
                limit = config.get(key)
                if isinstance(limit, int) and limit > 0:
                    return limit
        return None

    def load(self, *, dtype: str, device: str) -> Any:
        """The model itself."""
        if self.loaded is not None:
            return self.loaded
        assert self.directory is not None
        # Imported here: what is wrong with a request is found without the model classes.
        from hydrahead.model.loading import load_any_causal_lm

        return load_any_causal_lm(self.directory, dtype=dtype, device=device)


def subjects_of(models: Sequence[ModelSource]) -> list[Subject]:
    """Models under test with names of their own.

    Raises:
        HydraHeadError: no models, one that cannot be found or read, two with one name.
    """
    if isinstance(models, str | Path):
        models = [models]
    if not models:
        raise HydraHeadError("no model was given", mend="name at least one model")
    names = _names(models)
    return [
        _subject_in_memory(LoadedModel(*model), name)
        if isinstance(model, tuple)
        else _subject_on_disk(model, name)
        for model, name in zip(models, names, strict=True)
    ]


def _names(models: Sequence[ModelSource]) -> list[str]:
    """The last part of each path, or as much more of it as tells the models apart."""
    given = [m[2] if isinstance(m, tuple) else str(m).rstrip("/") for m in models]
    if len(set(given)) < len(given):
        twice = next(name for name in given if given.count(name) > 1)
        raise HydraHeadError(f"model {twice!r} was given twice", mend="name each model once")
    parts = [
        [g] if isinstance(m, tuple) else g.split("/") for g, m in zip(given, models, strict=True)
    ]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return given


def _subject_on_disk(model: str | Path, name: str) -> Subject:
    from hydrahead.model.checkpoint import SafetensorsReader
    from hydrahead.model.loading import load_tokenizer, resolve_model_dir

    directory = resolve_model_dir(model)
    SafetensorsReader(directory)  # missing or cut-off weights are found now, not models later
    config = read_json(directory / "config.json")
    tokenizer = load_tokenizer(directory)
    return Subject(
        name=name,
        source=str(model),
        directory=directory,
        config=config,
        tokenizer=tokenizer,
        codec=codec_from_tokenizer(tokenizer),
        fingerprint=fingerprint(directory),
        plan=_plan(config, where=directory),
        loaded=None,
    )


def _subject_in_memory(loaded: LoadedModel, name: str) -> Subject:
    config = loaded.model.config.to_dict()
    codec = codec_from_tokenizer(loaded.tokenizer)
    return Subject(
        name=name,
        source=None,
        directory=None,
        config=config,
        tokenizer=loaded.tokenizer,
        codec=codec,
        fingerprint=hash_text(
            f"{parameters_hash(loaded.model)} {codec.encode('The quick brown fox: 0123456789')}"
        ),
        plan=_plan(config, where=None),
        loaded=loaded.model,
    )


def _plan(config: dict[str, Any], *, where: Path | None) -> HeadPlan | None:
    """The plan a configuration holds or implies; None for a family that is not known."""
    if config.get("model_type") == "hydrahead":
        return HeadPlan.from_dict(config["plan"], where=where)
    try:
        return HeadPlan.all_full(ModelGeometry.from_config(config))
    except HydraHeadError:  # any causal model is welcome; its cost then stays unknown
        return None


def parameters_hash(model: Any) -> str:
    """sha256 over names, shapes and evenly spaced numbers of every parameter."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // _HASHED_NUMBERS)
        numbers = flat[::step].to(device="cpu", dtype=torch.float32).contiguous()
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(numbers.numpy().tobytes())
    return digest.hexdigest()
