"""Where other checkpoints keep the queries and keys of their layers, by family and layer types.

Which layers are full attention is what config.json's list of layer types says (`layer_types`,
`mixer_types`, `layers_block_type`), else what the family's transformers configuration derives from
its other fields (an interval, an offset, a pattern). What differs beyond that is in `FAMILIES`:

- Qwen3-Next and Qwen3.5 keep each head's output gate behind its query, in one projection of
  [heads, 2, head_dim] rows; their linear layers keep q, k and v (and z) in one tensor.
- Falcon-H1 runs attention beside Mamba-2 in every layer.
- Phi-3 keeps q, k and v in one tensor, one after the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.checkpoint import SafetensorsReader
from hydrahead.model.families.values import INVALID
from hydrahead.plan.checkpoint_families import FAMILY_RULES
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.transfer.surgery_rows import AttentionUnits, HeadRows, Kind, by_head

PREFIXES = (
    "model.layers",
    "model.language_model.layers",
    "language_model.model.layers",
    "backbone.layers",
)
"""Where the decoder's layers may be; never a vision tower's, never an extra prediction layer's."""
MODULES = ("self_attn", "attention", "mixer", "attn")
"""What a layer may call its softmax attention."""
LINEAR_MODULES = ("linear_attn", *MODULES)

LAYER_KINDS: Mapping[str, Kind | None] = {
    "full_attention": "full",
    "attention": "full",
    "attn": "full",
    "full": "full",
    "sliding_attention": "window",
    "chunked_attention": "window",
    "swa": "window",
    "linear_attention": "linear",
    "linear": "linear",
    "lightning": "linear",
    "lightning-attn": "linear",
    "lightning_attn": "linear",
    "gated_deltanet": "linear",
    "gdn": "linear",
    "jet": "linear",
    "kda": "linear",
    "mamba": "linear",
    "mamba2": "linear",
    "conv": "linear",
    "moe": None,
    "mlp": None,
}
"""A layer type of config.json -> the kind of its units; None has no mixer at all."""
_LISTS = ("layer_types", "mixer_types", "layers_block_type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a family's projections differ from q_proj, k_proj and v_proj with plain rows."""

    every_layer: Kind | None = None
    """The kind of every layer's units, whatever the layer types say."""
    queries: Literal["plain", "gated"] = "plain"
    """`gated`: the rows of a head are its query, then its output gate."""
    fused: str | None = None
    """One tensor of q, k and v, one after the other."""
    linear: Literal["none", "qkv", "qkvz"] = "none"
    """`qkv`: linear_attn.in_proj_qkv, one after the other; `qkvz`: by key head."""


FAMILIES: Mapping[str, Layout] = {
    "qwen3_next": Layout(queries="gated", linear="qkvz"),
    "qwen3_5": Layout(queries="gated", linear="qkv"),
    "qwen3_5_text": Layout(queries="gated", linear="qkv"),
    "qwen3_5_moe": Layout(queries="gated", linear="qkv"),
    "qwen3_5_moe_text": Layout(queries="gated", linear="qkv"),
    "falcon_h1": Layout(every_layer="full"),
    "phi3": Layout(fused="qkv_proj"),
}
"""model_type -> its layout; any other family has plain rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    q_heads: int
    kv_heads: int
    head_dim: int


def text_settings(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's settings, with its family's defaults where transformers knows it.

    Args:
        directory: Of the checkpoint.
        config: Its config.json, which may hold the language model's part as `text_config`.

    Raises:
        HydraHeadError: transformers cannot read it.
    """
    inner = config.get("text_config")
    raw = {**config, **inner} if isinstance(inner, Mapping) else dict(config)
    outer = config.get("model_type")
    if not isinstance(outer, str) or outer not in CONFIG_MAPPING:
        return raw
    try:
        theirs = CONFIG_MAPPING[outer].from_pretrained(directory).get_text_config(decoder=True)
    except (*INVALID, OSError) as error:
        raise HydraHeadError(
            f"transformers cannot read it ({str(error).strip().splitlines()[0]})",
            where=directory / "config.json",
            mend="use the config.json that was saved with these weights",
        ) from error
    derived = {key: getattr(theirs, key, None) for key in _LISTS}
    lists = {key: list(value) for key, value in derived.items() if isinstance(value, list | tuple)}
    return {**theirs.to_dict(), **lists}


def family_units(
    directory: Path, config: Mapping[str, Any], reader: SafetensorsReader
) -> tuple[AttentionUnits, ...]:
    """The units of a checkpoint that is no hybrid of ours; raises as `surgery_units.find_units`."""
    where = directory / "config.json"
    text = text_settings(directory, config)
    layout = FAMILIES.get(str(text.get("model_type")), Layout())
    kinds = _window_kinds(config, where) or layer_kinds(text, layout, where=where)
    sizes = _sizes(text, where)
    prefix = _prefix(reader, kinds, layout, directory)
    found: list[AttentionUnits] = []
    for layer, kind in enumerate(kinds):
        if kind == "linear":
            found += _linear_units(layer, f"{prefix}.{layer}", text, layout, reader)
        elif kind is not None:
            found.append(_softmax_units(layer, kind, f"{prefix}.{layer}", sizes, layout, reader))
    return tuple(found)


def _window_kinds(config: Mapping[str, Any], where: Path) -> tuple[Kind, ...] | None:
    """Of the families whose windows this package knows; None for any other."""
    if config.get("model_type") not in FAMILY_RULES:
        return None
    windows = ModelGeometry.from_config(config, where=where).layer_windows
    return tuple("full" if window is None else "window" for window in windows)


def layer_kinds(
    config: Mapping[str, Any], layout: Layout, *, where: Path
) -> tuple[Kind | None, ...]:
    """Full, window, linear or none, for every layer.

    Raises:
        HydraHeadError: neither config.json nor its family says, or a layer type is not known.
    """
    num_layers = _number(config, "num_hidden_layers", where)
    if layout.every_layer is not None:
        return (layout.every_layer,) * num_layers
    listed = next((config[key] for key in _LISTS if isinstance(config.get(key), list)), None)
    known = config.get("model_type") in CONFIG_MAPPING
    if listed is None and known and config.get("sliding_window") is None:
        listed = ["full_attention"] * num_layers
    if listed is None:
        raise HydraHeadError(
            f"nothing says which layers of a {config.get('model_type')!r} model are full attention",
            where=where,
            mend="write a list layer_types (full_attention, linear_attention, ...) there",
        )
    if len(listed) != num_layers:
        raise HydraHeadError(
            f"{len(listed)} layer types for {num_layers} layers", where=where, mend="mend it"
        )
    for name in listed:
        if str(name) not in LAYER_KINDS:
            raise HydraHeadError(
                f"layer type {name!r} is not known here",
                where=where,
                mend=f"known: {', '.join(LAYER_KINDS)}",
            )
    return tuple(LAYER_KINDS[str(name)] for name in listed)


def _softmax_units(
    layer: int, kind: Kind, prefix: str, sizes: _Sizes, layout: Layout, reader: SafetensorsReader
) -> AttentionUnits:
    q_heads, kv_heads, width = sizes.q_heads, sizes.kv_heads, sizes.head_dim
    names = ("q_proj", "k_proj", "v_proj") if layout.fused is None else (layout.fused,) * 3
    module = _module(prefix, names, MODULES, reader)
    if layout.fused is not None:
        ends = (q_heads * width, (q_heads + kv_heads) * width)
        spans = (
            by_head(q_heads, width),
            by_head(kv_heads, width, first=ends[0]),
            by_head(kv_heads, width, first=ends[1]),
        )
        totals = (ends[1] + kv_heads * width,) * 3
    else:
        per_q = 2 * width if layout.queries == "gated" else width
        spans = (
            by_head(q_heads, width, stride=per_q),
            by_head(kv_heads, width),
            by_head(kv_heads, width),
        )
        totals = (q_heads * per_q, kv_heads * width, kv_heads * width)
    for name, total in zip(names, totals, strict=True):
        _require_rows(f"{module}.{name}.weight", total, reader)
    q, k, v = (
        HeadRows(module=f"{module}.{name}", heads=span, norm=_norm(f"{module}.{role}", reader))
        for name, span, role in zip(names, spans, ("q", "k", "v"), strict=True)
    )
    group = q_heads // kv_heads
    return AttentionUnits(
        layer=layer, kind=kind, q=q, k=k, v=v, kv_of_q=tuple(i // group for i in range(q_heads))
    )


def _linear_units(
    layer: int, prefix: str, config: Mapping[str, Any], layout: Layout, reader: SafetensorsReader
) -> list[AttentionUnits]:
    """The units of a linear layer, where it has queries and keys (Mamba has none of that name)."""
    if layout.linear != "none":
        return [_fused_linear(layer, f"{prefix}.linear_attn", config, layout.linear)]
    for module in LINEAR_MODULES:
        names = [f"{prefix}.{module}.{role}_proj" for role in ("q", "k", "v")]
        if all(f"{name}.weight" in reader for name in names[:2]):
            rows = [reader.entry(f"{name}.weight").shape[0] for name in names[:2]]
            q, k = (
                HeadRows(
                    module=name,
                    heads=((0, count),),
                    norm=_norm(f"{prefix}.{module}.{role}", reader),
                )
                for name, count, role in zip(names[:2], rows, ("q", "k"), strict=True)
            )
            has_v = f"{names[2]}.weight" in reader
            count = reader.entry(f"{names[2]}.weight").shape[0] if has_v else 0
            v = HeadRows(module=names[2], heads=((0, count),), norm=None) if has_v else None
            return [AttentionUnits(layer=layer, kind="linear", q=q, k=k, v=v, kv_of_q=(0,))]
    return []


def _fused_linear(
    layer: int, module: str, config: Mapping[str, Any], linear: Literal["qkv", "qkvz"]
) -> AttentionUnits:
    key_heads, value_heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    key, value = config["linear_key_head_dim"], config["linear_value_head_dim"]
    group = value_heads // key_heads
    if linear == "qkvz":
        name, stride = "in_proj_qkvz", 2 * key + 2 * group * value
        q, k = (by_head(key_heads, key, first=i * key, stride=stride) for i in (0, 1))
        v = by_head(key_heads, group * value, first=2 * key, stride=stride)
    else:
        name, every = "in_proj_qkv", key_heads * key
        q, k = (by_head(key_heads, key, first=i * every) for i in (0, 1))
        v = by_head(value_heads, value, first=2 * every)
    rows = [HeadRows(module=f"{module}.{name}", heads=spans, norm=None) for spans in (q, k, v)]
    return AttentionUnits(
        layer=layer,
        kind="linear",
        q=rows[0],
        k=rows[1],
        v=rows[2],
        kv_of_q=tuple(range(key_heads)),
    )


def _prefix(
    reader: SafetensorsReader,
    kinds: tuple[Kind | None, ...],
    layout: Layout,
    directory: Path,
) -> str:
    """Where the decoder's layers are."""
    layer = next((i for i, kind in enumerate(kinds) if kind in ("full", "window")), None)
    if layer is None:
        raise HydraHeadError("no layer of this model has softmax attention", where=directory)
    name = layout.fused or "q_proj"
    for prefix in PREFIXES:
        if any(f"{prefix}.{layer}.{module}.{name}.weight" in reader for module in MODULES):
            return prefix
    raise HydraHeadError(
        f"layer {layer} should be attention, but holds no {name} below any of "
        f"{', '.join(PREFIXES)}",
        where=directory,
        mend="only models with separate q and k projections (or a known family) can be operated on",
    )


def _module(
    prefix: str, names: tuple[str, ...], modules: tuple[str, ...], reader: SafetensorsReader
) -> str:
    for module in modules:
        if f"{prefix}.{module}.{names[0]}.weight" in reader:
            for name in names:
                reader.entry(f"{prefix}.{module}.{name}.weight")  # says which one is missing
            return f"{prefix}.{module}"
    reader.entry(f"{prefix}.{modules[0]}.{names[0]}.weight")
    raise AssertionError("unreachable: the entry is missing")


def _require_rows(name: str, rows: int, reader: SafetensorsReader) -> None:
    entry = reader.entry(name)
    if not entry.shape or entry.shape[0] != rows:
        raise HydraHeadError(
            f"tensor {name!r} has shape {list(entry.shape)}, its family gives it {rows} rows",
            where=entry.file,
            mend="use the config.json that belongs to these weights",
        )


def _norm(role: str, reader: SafetensorsReader) -> str | None:
    name = f"{role}_norm.weight"
    return name if name in reader else None


def _sizes(text: Mapping[str, Any], where: Path) -> _Sizes:
    q_heads = _number(text, "num_attention_heads", where)
    width = text.get("head_dim") or _number(text, "hidden_size", where) // q_heads
    return _Sizes(
        q_heads=q_heads, kv_heads=text.get("num_key_value_heads") or q_heads, head_dim=width
    )


def _number(config: Mapping[str, Any], key: str, where: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise HydraHeadError(f"{key} is {value!r}, a positive integer is needed", where=where)
    return value
