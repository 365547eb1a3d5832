"""The sizes of a model that a plan depends on, read from its config.json and from nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    InstanceOf,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from hydrahead.core.errors import HydraHeadError, did_you_mean
from hydrahead.core.hub import fetch_model
from hydrahead.core.jsonio import read_json
from hydrahead.plan.checkpoint_families import FAMILY_RULES
from hydrahead.plan.problems import is_integer, is_object, validated
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.table import spec_from_dict, spec_to_dict

Unit = Literal["kv_head", "q_head"]
"""What a plan assigns: a kv_head with all its q_heads, or a single q_head."""

_SIZES = {
    "num_layers": "num_hidden_layers",
    "num_q_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_positions": "max_position_embeddings",
    "tie_word_embeddings": "tie_word_embeddings",
}


class ModelGeometry(BaseModel):
    """Sizes of a decoder-only checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    """model_type of the checkpoint: "qwen3", "llama", "falcon_h1" ..."""
    num_layers: PositiveInt
    num_q_heads: PositiveInt
    """Per layer."""
    num_kv_heads: PositiveInt
    """Per layer; q_head i reads kv_head i // group_size."""
    head_dim: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    vocab_size: PositiveInt
    max_positions: PositiveInt
    """Native context length in tokens."""
    layer_windows: tuple[PositiveInt | None, ...]
    """The family's own windows (a query sees keys at a distance below it); None is full."""
    tie_word_embeddings: bool
    parallel: tuple[InstanceOf[MixerSpec], ...] = ()
    """The family's own mixers beside the attention, alike in every layer (Falcon-H1's Mamba-2)."""

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`parallel` as `spec_from_dict` reads it; left out where there is none."""
        data: dict[str, Any] = handler(self)
        data.pop("parallel", None)
        if self.parallel:
            data["parallel"] = [spec_to_dict(spec) for spec in self.parallel]
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.layer_windows) != self.num_layers:
            raise ValueError(
                f"layer_windows has {len(self.layer_windows)} entries for {self.num_layers} layers"
            )
        if self.num_q_heads % self.num_kv_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_q_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_kv_heads})"
            )
        return self

    @property
    def group_size(self) -> int:
        """q_heads per kv_head."""
        return self.num_q_heads // self.num_kv_heads

    @property
    def free_layers(self) -> tuple[int, ...]:
        """Layers whose units a plan may give away: those without a window of their own."""
        return tuple(layer for layer, window in enumerate(self.layer_windows) if window is None)

    def units_per_layer(self, unit: Unit) -> int:
        """kv_heads or q_heads per layer."""
        return {"kv_head": self.num_kv_heads, "q_head": self.num_q_heads}[unit]

    def kv_head_of(self, q_head: int) -> int:
        """The kv_head that `q_head` reads."""
        return q_head // self.group_size

    def q_heads_of(self, kv_head: int) -> tuple[int, ...]:
        """The q_heads that read `kv_head`, ascending."""
        return tuple(range(kv_head * self.group_size, (kv_head + 1) * self.group_size))

    def require_same(self, other: Self, *, what: str, where: str | Path | None = None) -> None:
        """Refuse `other` (the model at hand) unless it is this one; names the first difference.

        The native context length may differ: rescaling rope leaves the heads as they are.

        Args:
            what: what was made for this geometry ("the plan").
        """
        for field in type(self).model_fields:
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs and field != "max_positions":
                raise HydraHeadError(
                    f"{what} is for another model: its {field} is {_short(mine)}, "
                    f"the model's {_short(theirs)}",
                    where=where,
                    mend=f"use the model {what} was made from, or make {what} again for this one",
                )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, where: str | Path | None = None) -> Self:
        """The geometry that a config.json describes; of a hybrid, the geometry of its plan.

        Raises:
            HydraHeadError: an unknown model_type, a wrong size, contradictory windows.
        """
        model_type = config.get("model_type")
        if model_type == "hydrahead":
            plan = config.get("plan")
            geometry = plan.get("geometry") if is_object(plan) else None
            if not is_object(geometry):
                raise HydraHeadError(
                    "the hybrid's config holds no plan", where=where, mend="convert it again"
                )
            return cls.from_dict(geometry, where=where)
        if not isinstance(model_type, str) or model_type not in FAMILY_RULES:
            known = ", ".join(FAMILY_RULES)
            suggestion = did_you_mean(str(model_type), FAMILY_RULES)
            raise HydraHeadError(
                f"model_type {model_type!r} is not a known family",
                where=where,
                mend="; ".join(filter(None, (suggestion, f"known families are {known}"))),
            )
        rules = FAMILY_RULES[model_type]
        full = {**rules.defaults, **config}
        if full["num_key_value_heads"] is None:
            full["num_key_value_heads"] = full["num_attention_heads"]
        hidden_size, num_q_heads = full["hidden_size"], full["num_attention_heads"]
        if full["head_dim"] is None and is_integer(hidden_size) and is_integer(num_q_heads):
            full["head_dim"] = hidden_size // max(num_q_heads, 1)
        sizes = {ours: full[theirs] for ours, theirs in _SIZES.items()}
        num_layers = sizes["num_layers"]
        if not is_integer(num_layers) or num_layers < 1:
            raise HydraHeadError(f"num_hidden_layers is {num_layers!r}", where=where)
        try:
            windows = rules.windows(full, num_layers)
            parallel = rules.parallel(full)
        except HydraHeadError as error:
            raise HydraHeadError(error.what, where=where, mend=error.mend) from None
        data = {"family": model_type, **sizes, "layer_windows": windows, "parallel": parallel}
        return cls.from_dict(data, where=where)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str | Path | None = None) -> Self:
        """The inverse of `model_dump`; a wrong or unknown field raises HydraHeadError."""
        windows: Any = data.get("layer_windows")
        if isinstance(windows, list):
            data = {**data, "layer_windows": tuple(cast(list[Any], windows))}
        parallel: Any = data.get("parallel")
        if isinstance(parallel, list):
            place = str(where or "geometry")
            specs = tuple(spec_from_dict(entry, where=place) for entry in cast(list[Any], parallel))
            data = {**data, "parallel": specs}
        return validated(cls, data, where=f"{where or 'geometry'}")

    @classmethod
    def from_pretrained(cls, model: str | Path) -> Self:
        """Read the geometry of a checkpoint directory, a hybrid directory or a Hugging Face name.

        Only config.json is read (or fetched).

        Raises:
            HydraHeadError: no such model, a damaged config.json, an unknown family.
        """
        path = _config_path(model)
        config = read_json(path)
        if not is_object(config):
            raise HydraHeadError("config.json holds no JSON object", where=path)
        return cls.from_config(config, where=path)


def _config_path(model: str | Path) -> Path:
    directory = Path(model)
    if directory.is_dir():
        path = directory / "config.json"
        if not path.is_file():
            raise HydraHeadError(
                "the directory holds no config.json", where=directory, mend="name a model directory"
            )
        return path
    if directory.exists():
        raise HydraHeadError(
            "a file, not a model directory", where=model, mend="give its directory"
        )
    return fetch_model(model, ("config.json",)) / "config.json"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
