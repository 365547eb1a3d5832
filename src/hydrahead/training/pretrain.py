"""A small decoder from scratch: tokenizer, token stream, curriculum, one model directory.

This is how the bundled teacher was made (`recipes/small_teacher.py` holds its settings). The model
is a plain transformers Qwen3, or what another `ModelShape` builds (`recipes/falcon_h1.py`).
"""

import itertools
import json
import lzma
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from hydrahead.core.artefacts import fingerprint, open_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.progress import Progress
from hydrahead.core.seeds import derive_seed, generator
from hydrahead.tasks import build_task
from hydrahead.tasks.words import KEYS
from hydrahead.training.batch import Batch
from hydrahead.training.bpe import train_byte_bpe
from hydrahead.training.config import TrainConfig
from hydrahead.training.head_loss import Targets, chunked_cross_entropy
from hydrahead.training.loop import train
from hydrahead.training.objectives import Objective, ObjectiveOutput
from hydrahead.training.optimiser import MasterAdamW
from hydrahead.training.rows import CurriculumBatches, CurriculumRows, Phase

TOKENIZER_DOCUMENTS = 1500
"""Documents the tokenizer is trained on; more change the merges of a small vocabulary very
little."""
TOKENIZER_SAMPLES = 600
"""Recall samples of each task the tokenizer is trained on, so that their words become single
tokens."""


KEY_REPEATS = 2000
"""Times the tokenizer sees every key; less often than common syllables and it would stay in
pieces."""
WORD_TASKS = frozenset({"copy_spans", "mqar", "general"})
"""Tasks that choose words by their length in tokens and so need a tokenizer first."""


class ModelShape(BaseModel, ABC):
    """What a model from scratch looks like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """How many tokens it knows."""

    @property
    @abstractmethod
    def context(self) -> int:
        """How many tokens it may see at once."""

    @abstractmethod
    def build(self, tokenizer: Any, seed: int) -> PreTrainedModel:
        """A freshly initialised model, float32."""

    def lr_scales(self, model: Any) -> dict[str, float]:
        """Parameter name -> what its learning rate is multiplied by; 1 where there is none."""
        return {}


class DecoderShape(ModelShape):
    """Sizes of a Qwen3-shaped decoder."""

    vocab_size: int = Field(ge=300, le=65536)
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope_theta: float = 10000.0

    @property
    def vocabulary(self) -> int:
        """As given."""
        return self.vocab_size

    @property
    def context(self) -> int:
        """As given."""
        return self.max_positions

    def build(self, tokenizer: Any, seed: int) -> Qwen3ForCausalLM:
        """A freshly initialised model, float32."""
        return build_model(self, tokenizer, seed)


Shape = TypeVar("Shape", bound=ModelShape)


class PretrainRun(BaseModel, Generic[Shape]):
    """Everything that decides the weights, beside the text itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: Shape
    phases: tuple[Phase, ...]
    train: TrainConfig
    """Optimiser settings; steps, batch size and length follow from the phases."""


class DenseNextToken(Objective):
    """Next-token cross-entropy on rows of one document each: attention is plainly causal."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def __call__(self, batch: Batch) -> ObjectiveOutput:
        """The summed loss of a batch."""
        targets = Targets.of(batch)
        body = self._model.base_model
        hidden = body(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        head = self._model.get_output_embeddings()
        assert head is not None
        loss, right = chunked_cross_entropy(targets.rows(hidden), head.weight, None, targets)
        return ObjectiveOutput(loss=loss, weight=targets.weight, sums={"right": right})


class _Characters:
    """Characters as tokens: recall text can be written before there is a tokenizer."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))


def read_documents(path: Path) -> Iterator[str]:
    """The `text` fields of a JSONL file, plain or .xz."""
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)["text"]
            except (json.JSONDecodeError, KeyError) as error:
                raise HydraHeadError(
                    f"line {number} is not a JSON object with a text field", where=path
                ) from error


def recall_texts(tasks: Iterable[str], *, length: int = 4000) -> Iterator[str]:
    """What the tokenizer sees of the recall tasks."""
    codec = _Characters()
    for name in sorted(tasks):
        task = build_task(name)
        for index in range(TOKENIZER_SAMPLES):
            sample = task.sample(codec, length=length, seed=derive_seed(0, "bpe"), index=index)
            yield codec.decode(sample.prompt_ids + sample.answer_ids)


def key_texts() -> Iterator[str]:
    """Every key often enough to become one token: finding it is one step of attention."""
    for number in range(KEY_REPEATS):
        rng = generator(0, "bpe", "keys", number)
        yield "".join(f" {key}" for key in rng.sample(KEYS, len(KEYS)))


def build_tokenizer(run: PretrainRun, text: Path) -> Any:
    """A tokenizer for the run's text and tasks."""
    tasks = {name.split(":")[0] for phase in run.phases for name in phase.tasks}
    documents = itertools.islice(read_documents(text), TOKENIZER_DOCUMENTS)
    texts = [*documents, *recall_texts(tasks - WORD_TASKS), *key_texts()]
    return train_byte_bpe(texts, vocab_size=run.shape.vocabulary, max_length=run.shape.context)


def token_stream(tokenizer: Any, text: Path) -> np.ndarray:
    """All documents as one array, an end-of-text token after each."""
    documents = list(read_documents(text))
    encoded = tokenizer(documents, add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id]
    return np.concatenate([np.asarray(ids + end, dtype=np.uint16) for ids in encoded])


def build_model(shape: DecoderShape, tokenizer: Any, seed: int) -> Qwen3ForCausalLM:
    """A freshly initialised model, float32."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_q_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def pretrain(
    run: PretrainRun,
    *,
    text: Path,
    out: Path,
    device: str = "cpu",
    workers: int = 0,
    force: bool = False,
) -> Path:
    """Train a model from scratch and write it as a Hugging Face model directory.

    Args:
        run: everything that decides the weights.
        text: JSONL (plain or .xz) with a `text` field per document.
        out: model directory to write; the same call resumes an unfinished run.
        device: where to train; parameters are float32 or bfloat16 with float32 masters, as
            `run.train` says.
        workers: processes that make batches.
        force: replace an `out` made from something else.

    Raises:
        HydraHeadError: the text is not readable, or `out` holds something else.
    """
    with open_artefact(
        out,
        kind="model",
        configuration={"pretrain": run.model_dump(mode="json")},
        parents={"text": fingerprint(text)},
        seed=run.train.seed,
        force=force,
    ) as work:
        if work.reused:
            return out
        tokenizer = build_tokenizer(run, text)
        rows = CurriculumRows(
            run.phases,
            tokenizer=tokenizer,
            text_tokens=token_stream(tokenizer, text),
            seed=run.train.seed,
        )
        model = run.shape.build(tokenizer, run.train.seed)
        body = cast(torch.nn.Module, model)
        body.to(device=device, dtype=getattr(torch, run.train.dtype))
        with Progress() as progress:
            train(
                model,
                DenseNextToken(model),
                CurriculumBatches(rows, workers=workers),
                run.train.model_copy(update={"steps": len(rows), "tokens": None}),
                work.scratch,
                progress=progress,
                label="pretrain",
                optimiser=MasterAdamW(body, run.train, run.shape.lr_scales(model)),
            )
        shutil.copy(work.scratch / "metrics.jsonl", work.directory)
        body.to(torch.bfloat16)
        model.save_pretrained(work.directory)
        tokenizer.save_pretrained(work.directory)
    return out
