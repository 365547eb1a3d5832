"""`restore-qk`: give long-range recall back after fine-tuning, without training.

QK-Restore (arXiv 2606.11052): fine-tuning on short-range chains of thought can break what the few
full-attention heads of a hybrid look at far away. Take W_Q and W_K of those heads from the
checkpoint before the fine-tuning, and everything else from the one after it. Which heads those are
follows from the plan, or from the family and its layer types (`surgery_units`); what else can be
taken back is in `surgery_variants`; how terabytes go through megabytes in `surgery_rewrite`.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrahead.core.artefacts import ArtefactWork, open_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import write_json, write_text
from hydrahead.core.progress import Progress
from hydrahead.core.records import artefact_kind, read_record
from hydrahead.model.checkpoint import SafetensorsReader, ShardWriter
from hydrahead.model.families.teacher import is_hybrid, read_config
from hydrahead.model.hub import resolve_model_dir
from hydrahead.transfer.artefact_files import copy_companions
from hydrahead.transfer.surgery_adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdaptedRows,
    Adapter,
    is_adapter,
    merge_patches,
    open_adapter,
    without_rows,
)
from hydrahead.transfer.surgery_checks import (
    require_same_model,
    require_same_tensors,
    require_same_tokens,
)
from hydrahead.transfer.surgery_patches import Patch, RowSource, StoredRows, patches
from hydrahead.transfer.surgery_report import UnitChange, unit_changes
from hydrahead.transfer.surgery_rewrite import Rewrite
from hydrahead.transfer.surgery_rows import AttentionUnits, Span
from hydrahead.transfer.surgery_units import choose_units, find_units
from hydrahead.transfer.surgery_variants import Variant, parse_variant

RESTORED_NAME = "restored.json"
"""In the artefact: what was restored, and the hashes that were verified."""
_CODE = ("*.py", "*.jinja", "preprocessor_config.json", "processor_config.json")


def restore_qk(
    pre: str | Path,
    post: str | Path,
    out: Path,
    *,
    layers: str = "full",
    variant: str = "qk",
    lambda_: float | None = None,
    alpha: float = 1.0,
    merge: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write `post` with W_Q and W_K of its full-attention units taken from `pre`.

    Args:
        pre: The checkpoint before fine-tuning (directory or Hugging Face name).
        post: The one after it, or a LoRA adapter on `pre`.
        out: The directory to make; a finished one of the same inputs is reused, a half-done one
            resumed.
        layers: `full` (the paper), `softmax` (windows too), `linear`, `all`, layer numbers, or
            `KIND:NUMBERS`; see `surgery_units.choose_units`.
        variant: `qk` (the paper), `q`, `k`, `v`, `pro`, each with `+norms` or `+bias`.
        lambda_: Of `pro`, relative to the mean eigenvalue of the keys' S.
        alpha: Share of the change that is taken back.
        merge: Of an adapter: write a whole checkpoint instead of an adapter.
        force: Replace an `out` made from other inputs.
        progress: Where to show it; stderr by default.

    Returns:
        `out`: a checkpoint in the format of `post` (an adapter stays one unless merged).

    Raises:
        HydraHeadError: two checkpoints that are not one model before and after (the first
            difference is named), a family that is not known, a full disk; nothing is left.
    """
    task = _open(pre, post, layers, parse_variant(variant, alpha=alpha, lambda_=lambda_), merge)
    configuration = {
        "restore_qk": {
            "variant": task.variant.name,
            "lambda": task.variant.lambda_,
            "alpha": alpha,
            "layers": layers,
            "merge": merge,
        },
        **_stages_done(task.post),
    }
    with open_artefact(
        out,
        kind=task.kind,
        configuration=configuration,
        parents={"pre": task.pre, "post": task.post},
        force=force,
    ) as work:
        if not work.reused:
            with progress or Progress() as shown:
                _write(task, work, shown)
    return Path(out)


def qk_changes(
    pre: str | Path, post: str | Path, *, layers: str = "full"
) -> tuple[UnitChange, ...]:
    """How far fine-tuning has moved W_Q, W_K and W_V of the units; raises as `restore_qk`."""
    task = _open(pre, post, layers, parse_variant("qk"), False)
    return unit_changes(task.units, task.pre_rows, task.post_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A restoration after all checks, before the first byte."""

    pre: Path
    post: Path
    kind: str
    variant: Variant
    merge: bool
    units: tuple[AttentionUnits, ...]
    pre_reader: SafetensorsReader
    pre_rows: StoredRows
    post_rows: RowSource
    post_reader: SafetensorsReader | None
    adapter: Adapter | None
    found: tuple[Patch, ...]
    tokens_compared: bool


def _open(pre: str | Path, post: str | Path, layers: str, variant: Variant, merge: bool) -> _Task:
    before, after = resolve_model_dir(pre), resolve_model_dir(post)
    if before.resolve() == after.resolve():
        raise HydraHeadError("PRE and POST are the same directory", where=after)
    pre_config = read_config(before)
    pre_reader = SafetensorsReader(before)
    pre_rows = StoredRows(pre_reader)
    adapter = post_reader = None
    compared = True
    if is_adapter(after):
        adapter = open_adapter(after, pre_reader)
        post_rows: RowSource = AdaptedRows(pre_reader, adapter)
    else:
        if merge:
            raise HydraHeadError(
                "not an adapter, so there is nothing to merge", where=after, mend="drop --merge"
            )
        post_config = read_config(after)
        require_same_model(before, after, pre_config, post_config)
        compared = require_same_tokens(before, after)
        post_reader = SafetensorsReader(after)
        tied = bool(_text(pre_config).get("tie_word_embeddings"))
        require_same_tensors(pre_reader, post_reader, tied=tied)
        post_rows = StoredRows(post_reader)
    units = choose_units(find_units(before, pre_config, pre_reader), layers, where=before)
    found = patches(units, variant, pre_rows, post_rows)
    kind = "model" if is_hybrid(pre_config) else "checkpoint"
    if adapter is not None and not merge:
        _require_droppable(variant)
        kind = "adapter"
    return _Task(
        pre=before,
        post=after,
        kind=kind,
        variant=variant,
        merge=merge,
        units=units,
        pre_reader=pre_reader,
        pre_rows=pre_rows,
        post_rows=post_rows,
        post_reader=post_reader,
        adapter=adapter,
        found=found,
        tokens_compared=compared,
    )


def _write(task: _Task, work: ArtefactWork, progress: Progress) -> None:
    verified: dict[str, Any] = {}
    if task.adapter is not None and not task.merge:
        _write_adapter(task, task.adapter, work)
    else:
        reader, found = _to_rewrite(task)
        rewrite = Rewrite(reader, found, task.pre_rows)
        verified = rewrite.write(work, progress)
        source = reader.directory
        copy_companions(source, work.directory)
        if task.adapter is not None:  # a tokenizer that came with the adapter goes with it
            copy_companions(task.post, work.directory)
        for path in sorted(path for pattern in _CODE for path in source.glob(pattern)):
            shutil.copyfile(path, work.directory / path.name)
    card = task.post / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    write_text(work.directory / "README.md", f"{text.rstrip()}\n\n{_card(task)}".lstrip())
    write_json(
        work.directory / RESTORED_NAME,
        {
            "units": [
                {"layer": unit.layer, "kind": unit.kind, "q": unit.q.module, "k": unit.k.module}
                for unit in task.units
            ],
            "tokenizers_compared": task.tokens_compared,
            "shards": verified,
        },
    )
    if task.kind != "adapter":  # last: without it nothing loads
        source = task.pre if task.adapter is not None else task.post
        shutil.copyfile(source / "config.json", work.directory / "config.json")


def _to_rewrite(task: _Task) -> tuple[SafetensorsReader, list[Patch]]:
    """What is copied, and what changes in it."""
    if task.adapter is None:
        assert task.post_reader is not None
        return task.post_reader, list(task.found)
    # The base is copied: restored rows stay as they are there, the others get the adapter.
    kept: dict[str, list[Span]] = {}
    for patch in task.found:
        kept.setdefault(patch.tensor, []).append(patch.span)
    assert isinstance(task.post_rows, AdaptedRows)
    merged = merge_patches(task.adapter, task.pre_reader, task.post_rows, kept)
    return task.pre_reader, [*merged, *(patch for patch in task.found if not patch.exact)]


def _write_adapter(task: _Task, adapter: Adapter, work: ArtefactWork) -> None:
    spans: dict[str, list[Span]] = {}
    for patch in task.found:
        spans.setdefault(patch.tensor, []).append(patch.span)
    tensors, config = without_rows(adapter, spans, task.variant.alpha)
    with ShardWriter(work.directory, max_bytes=1 << 62) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
    # peft's name for the file; written under another one first, so that a kill leaves no adapter.
    (work.directory / "model.safetensors").rename(work.directory / WEIGHTS_FILE)
    copy_companions(task.post, work.directory)
    write_json(work.directory / CONFIG_FILE, config)


def _require_droppable(variant: Variant) -> None:
    if variant.base == "pro" or variant.norms or variant.bias:
        raise HydraHeadError(
            f"variant {variant.name} changes more than an adapter's own rows",
            where="--variant",
            mend="use --merge, which writes a whole checkpoint",
        )


def _text(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _stages_done(post: Path) -> dict[str, Any]:
    """What `distill` remembers of a hybrid goes on to what is made of it."""
    if artefact_kind(post) != "model":
        return {}
    done = read_record(post).configuration.get("stages_done")
    return {} if done is None else {"stages_done": done}


def _card(task: _Task) -> str:
    layers = sorted({unit.layer for unit in task.units})
    settings = "" if task.variant.alpha == 1.0 else f", alpha {task.variant.alpha:g}"
    settings += "" if task.variant.lambda_ is None else f", lambda {task.variant.lambda_:g}"
    return (
        "## QK-Restore\n\n"
        f"`hydrahead restore-qk` (after arXiv 2606.11052), variant {task.variant.name}{settings}: "
        f"queries and keys of layers {', '.join(map(str, layers))} come from the checkpoint before "
        f"fine-tuning (`{task.pre.name}`), everything else from `{task.post.name}`.\n"
    )
