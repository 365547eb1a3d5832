"""Loading models and tokenizers from a directory or a Hugging Face name.

`load_model` gives a hybrid for everything it takes: a directory of ours as it is, a checkpoint of a
known family as the all-full hybrid that computes the same. Every parameter comes from the
checkpoint; one that is missing is an error, never a random initialisation.
"""

from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from hydrahead.core.errors import HydraHeadError, unknown_name
from hydrahead.mixers.contract import HeadMixer
from hydrahead.model.checkpoint import SafetensorsReader
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.families.all_full import with_all_full_plan
from hydrahead.model.families.base import Family
from hydrahead.model.families.table import FAMILIES
from hydrahead.model.families.teacher import (
    EMBEDDING,
    HEAD,
    Teacher,
    embedding_sources,
    is_hybrid,
    open_teacher,
    read_config,
)
from hydrahead.model.families.values import INVALID, read_hybrid_config
from hydrahead.model.hub import resolve_model_dir
from hydrahead.model.modeling import HydraForCausalLM, HydraLayer

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "tekken.json", "*.tiktoken")
_ADD_TOKENIZER = "add the model's tokenizer.json and tokenizer_config.json"


def load_model(
    model: str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    attn_implementation: str = "sdpa",
) -> HydraForCausalLM:
    """A hybrid in evaluation mode.

    Args:
        model: A directory of ours, a checkpoint directory of a known family, or a Hugging Face
            name.
        dtype: "float32", "bfloat16", "float16", "float64", or "auto" for the dtype it is stored in.
            Gates, decays and fusion scalars stay fp32.
        device: Where the parameters go.
        attn_implementation: "sdpa" or "eager".

    Raises:
        HydraHeadError: no such model, an unknown architecture, missing, damaged or non-finite
            weights, or a dtype, device or attention implementation that cannot be had.
    """
    directory = resolve_model_dir(model)
    config = read_config(directory)
    target = _device(device)
    if is_hybrid(config):
        hybrid = _load_hybrid(directory, config, dtype, attn_implementation)
    else:
        hybrid = _load_teacher(open_teacher(directory), dtype, attn_implementation)
    _finish(hybrid, directory)
    return hybrid.to(target)  # type: ignore[arg-type]


def load_any_causal_lm(
    model: str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """`load_model` where it can; any other causal language model of transformers as it is there.

    Weights come from safetensors only, and no code of the checkpoint is run. Without an
    `attn_implementation` ours run on sdpa, others on what transformers takes for them.

    Raises:
        HydraHeadError: as `load_model`, or transformers cannot load it.
    """
    directory = resolve_model_dir(model)
    config = read_config(directory)
    if is_hybrid(config) or str(config.get("model_type")) in FAMILIES:
        return load_model(
            directory, dtype=dtype, device=device, attn_implementation=attn_implementation or "sdpa"
        )
    stored = SafetensorsReader(directory)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype if dtype == "auto" else _dtype(dtype, None),
            attn_implementation=attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (*INVALID, OSError, ImportError, RuntimeError) as error:
        raise HydraHeadError(
            f"transformers cannot load it ({_first_line(error)})",
            where=directory,
            mend="give a causal language model that transformers knows without remote code",
        ) from error
    result, report = loaded
    for kind in ("missing_keys", "mismatched_keys"):
        if report.get(kind):
            raise HydraHeadError(
                f"{kind.replace('_', ' ')}: {sorted(map(str, report[kind]))[:4]}",
                where=stored.directory,
                mend="fetch the checkpoint again",
            )
    _check_special_ids(result.generation_config, directory)
    return result.to(_device(device)).eval()


def load_tokenizer(model: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's directory; no code of the checkpoint is run.

    Raises:
        HydraHeadError: there is none, or transformers cannot read it.
    """
    directory = resolve_model_dir(model)
    if not any(path for name in _VOCABULARIES for path in directory.glob(name)):
        # transformers would make an empty one of the right class
        raise HydraHeadError("no tokenizer", where=directory, mend=_ADD_TOKENIZER)
    settings: dict[str, Any] = {}
    where = directory / "config.json"
    if where.exists() and is_hybrid(config := read_config(directory)):
        # transformers chooses the tokenizer's class by model_type too: the teacher's holds here
        hydra = read_hybrid_config(config, where=where)
        if hydra.teacher_config:
            family: Family = FAMILIES.load(hydra.family)
            settings["config"] = family.normalised(hydra.teacher_config, where=directory)
    try:
        return AutoTokenizer.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True, **settings
        )
    except (*INVALID, OSError, ImportError) as error:
        if where.exists() and not settings:
            _require_config(directory)
        raise HydraHeadError(
            f"no tokenizer that transformers can read ({_first_line(error)})",
            where=directory,
            mend=_ADD_TOKENIZER,
        ) from error


def _require_config(directory: Path) -> None:
    """Refuse a config.json that transformers cannot read: it is read for a tokenizer too."""
    try:
        AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except INVALID as error:
        raise HydraHeadError(
            f"not a configuration that transformers can read ({_first_line(error)})",
            where=directory / "config.json",
            mend="mend the field, or fetch config.json again",
        ) from error


def _load_teacher(
    teacher: Teacher, dtype: str | torch.dtype, attn_implementation: str
) -> HydraForCausalLM:
    config = with_all_full_plan(teacher.config, teacher.geometry)
    model = _blank(config, _dtype(dtype, teacher.dtype), attn_implementation)
    plan = config.head_plan
    with torch.no_grad():
        for name in teacher.outer_names():
            model.get_parameter(name).copy_(teacher.outer(name))
        for layer in range(config.num_hidden_layers):
            heads = teacher.heads(layer)
            block = cast(HydraLayer, model.model.layers[layer])
            mixers = cast(list[HeadMixer], list(block.self_attn.mixers))
            for mixer, assignment in zip(mixers, plan.layer_mixers(layer), strict=True):
                mixer.init_from_teacher(heads.cut(assignment))
            for name, tensor in chain(teacher.rest(layer), teacher.parallel(layer)):
                model.get_parameter(name).copy_(tensor)
    return model


def _load_hybrid(
    directory: Path, config: dict[str, Any], dtype: str | torch.dtype, attn_implementation: str
) -> HydraForCausalLM:
    hydra = read_hybrid_config(config, where=directory / "config.json")
    reader = SafetensorsReader(directory)
    source = embedding_sources(reader, hydra)
    stored = reader.entry(source[EMBEDDING]).dtype
    model = _blank(hydra, _dtype(dtype, stored), attn_implementation)
    parameters = {source.get(name, name): value for name, value in model.named_parameters()}
    spare = rf"^{HEAD}$" if hydra.tie_word_embeddings else None
    reader.check({name: tuple(p.shape) for name, p in parameters.items()}, ignore=spare)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(reader.read(name))
    return model


def _blank(config: HydraConfig, dtype: torch.dtype, attn_implementation: str) -> HydraForCausalLM:
    """The model with unset parameters; they take no memory before they are written."""
    try:
        with no_init_weights():
            model = HydraForCausalLM._from_config(
                config, dtype=dtype, attn_implementation=attn_implementation
            )
    except (ValueError, ImportError) as error:
        raise HydraHeadError(_first_line(error), mend="use sdpa or eager attention") from error
    model.tie_weights()
    return model


def _finish(model: HydraForCausalLM, directory: Path) -> None:
    model.config.name_or_path = str(directory)
    if (directory / "generation_config.json").exists():
        try:
            model.generation_config = GenerationConfig.from_pretrained(directory)
        except (OSError, ValueError, TypeError) as error:
            raise HydraHeadError(
                f"damaged ({_first_line(error)})",
                where=directory / "generation_config.json",
                mend="mend or remove it",
            ) from error
        _check_special_ids(model.generation_config, directory)
    model.eval()


def _check_special_ids(settings: GenerationConfig | None, directory: Path) -> None:
    """Refuse what transformers takes, and fails at in the middle of a generation."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        given = getattr(settings, name, None)
        ids = given if isinstance(given, list) and name == "eos_token_id" else [given]
        if given is not None and not all(type(token) is int for token in ids):
            raise HydraHeadError(
                f"{name} is {given!r}, not a token id",
                where=directory / "generation_config.json",
                mend="mend or remove it",
            )


def _dtype(dtype: str | torch.dtype, stored: torch.dtype | None) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto" and stored is not None:
        return stored
    if dtype not in _DTYPES:
        raise unknown_name("dtype", dtype, (*_DTYPES, "auto"))
    return _DTYPES[dtype]


def _device(device: str | torch.device) -> torch.device:
    try:
        result = torch.device(device)
        torch.empty(0, device=result)
    except (RuntimeError, AssertionError) as error:
        raise HydraHeadError(
            f"device {device!s} cannot be used ({_first_line(error)})", mend="use --device cpu"
        ) from error
    return result


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


__all__ = ["load_any_causal_lm", "load_model", "load_tokenizer", "resolve_model_dir"]
