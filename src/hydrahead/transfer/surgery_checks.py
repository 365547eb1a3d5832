"""Two checkpoints of one model: everything that gives the rows of W_Q and W_K their meaning agrees.

Checked in this order: family, plan (of hybrids), the configuration's decisive fields, tokenizer,
tensors (names, shapes, dtypes). The first difference is named and nothing is written. A tokenizer
of the post checkpoint may have tokens more, as fine-tuning for chat adds them; every token of the
pre checkpoint must keep its number.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json
from hydrahead.model.checkpoint import SafetensorsReader
from hydrahead.model.families.teacher import HEAD, is_hybrid
from hydrahead.model.families.values import read_hybrid_config
from hydrahead.model.loading import load_tokenizer
from hydrahead.model.safetensors_io import DTYPE_NAMES
from hydrahead.transfer.surgery_families import text_settings

DECISIVE = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "layer_types",
    "mixer_types",
    "layers_block_type",
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "attention_bias",
    "qk_norm",
    "rms_norm_eps",
    "key_multiplier",
    "attn_output_gate",
    "tie_word_embeddings",
)
"""Fields of config.json that decide what a query and a key are, or where they stand."""

_MEND = "give two checkpoints of the same model, before and after fine-tuning"
_IGNORED = re.compile(r"rotary_emb\.inv_freq$")
_SHOWN_CHARACTERS = 60


def require_same_model(
    pre: Path,
    post: Path,
    pre_config: Mapping[str, Any],
    post_config: Mapping[str, Any],
) -> None:
    """Refuse two configurations of different models; raises HydraHeadError with the difference."""
    kinds = (pre_config.get("model_type"), post_config.get("model_type"))
    if kinds[0] != kinds[1]:
        raise HydraHeadError(
            f"PRE is a {kinds[0]!r} model, POST a {kinds[1]!r} one", where=post, mend=_MEND
        )
    if is_hybrid(pre_config):
        _require_same_plan(pre, post, pre_config, post_config)
    ours, theirs = text_settings(pre, pre_config), text_settings(post, post_config)
    for key in DECISIVE:
        if ours.get(key) != theirs.get(key):
            raise HydraHeadError(
                f"{key} is {_short(ours.get(key))} in PRE and {_short(theirs.get(key))} in POST",
                where=post / "config.json",
                mend=_MEND,
            )


def require_same_tokens(pre: Path, post: Path) -> bool:
    """Refuse tokenizers that number a token differently; False if one of the two has none.

    Raises:
        HydraHeadError: names the first such token.
    """
    found: list[Mapping[str, int]] = []
    for directory in (pre, post):
        try:
            found.append(_vocabulary(directory))
        except HydraHeadError:
            return False
    ours, theirs = found
    moved = [token for token, number in ours.items() if theirs.get(token) != number]
    if moved:
        token = min(moved, key=ours.__getitem__)
        raise HydraHeadError(
            f"token {token!r} is number {ours[token]} in PRE and {theirs.get(token)} in POST",
            where=post,
            mend=_MEND,
        )
    return True


def require_same_tensors(pre: SafetensorsReader, post: SafetensorsReader, *, tied: bool) -> None:
    """Refuse another set of tensors, or another shape or dtype; names the first difference.

    With tied embeddings `lm_head.weight` may be missing on one side (it is stored once or twice).
    """
    ours, theirs = _names(pre, tied), _names(post, tied)
    for name in sorted(ours ^ theirs):
        where, lacks = (pre, "POST") if name in ours else (post, "PRE")
        raise HydraHeadError(
            f"tensor {name!r} is only here, {lacks} has no such tensor",
            where=where.entry(name).file,
            mend=_MEND,
        )
    for name in sorted(ours):
        one, other = pre.entry(name), post.entry(name)
        if one.shape != other.shape:
            raise HydraHeadError(
                f"tensor {name!r} has shape {list(other.shape)}, PRE's has {list(one.shape)}",
                where=other.file,
                mend=_MEND,
            )
        if one.dtype != other.dtype:
            raise HydraHeadError(
                f"tensor {name!r} is stored as {DTYPE_NAMES[other.dtype]}, "
                f"PRE's as {DTYPE_NAMES[one.dtype]}",
                where=other.file,
                mend="save both in the same dtype, so that values can be moved without rounding",
            )


def _require_same_plan(
    pre: Path, post: Path, pre_config: Mapping[str, Any], post_config: Mapping[str, Any]
) -> None:
    plans = [
        read_hybrid_config(config, where=directory / "config.json").head_plan
        for config, directory in ((pre_config, pre), (post_config, post))
    ]
    plans[0].geometry.require_same(plans[1].geometry, what="PRE", where=post)
    if plans[0].unit != plans[1].unit:
        raise HydraHeadError(
            f"PRE's plan is by {plans[0].unit}, POST's by {plans[1].unit}", where=post, mend=_MEND
        )
    for layer, (one, other) in enumerate(zip(plans[0].layers, plans[1].layers, strict=True)):
        for number, (a, b) in enumerate(zip(one.units, other.units, strict=True)):
            if a != b:
                raise HydraHeadError(
                    f"the plans differ: {plans[0].unit} {number} of layer {layer} is "
                    f"{_short(a)} in PRE and {_short(b)} in POST",
                    where=post,
                    mend=_MEND,
                )
        if one.parallel != other.parallel:
            raise HydraHeadError(
                f"the plans differ: layer {layer} has other parallel mixers", where=post, mend=_MEND
            )


def _vocabulary(directory: Path) -> Mapping[str, int]:
    """Token -> number; from tokenizer.json where it holds a plain table, else by transformers."""
    path = directory / "tokenizer.json"
    if path.is_file():
        content = read_json(path)
        model = content.get("model") if isinstance(content, dict) else None
        table = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(table, dict):
            added = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
            return {**table, **added}
    return load_tokenizer(directory).get_vocab()


def _names(reader: SafetensorsReader, tied: bool) -> set[str]:
    names = {name for name in reader.names() if not _IGNORED.search(name)}
    return names - {HEAD} if tied else names


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."
