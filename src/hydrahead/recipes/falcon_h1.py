"""Falcon-H1 from scratch: one of the size of Tiny-90M, and one for a few minutes.

Both use the curriculum of the small teacher: copying at short distance, keys told apart in many
questions a row, then growing lengths (docs/lab-notebook.md says why).
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from hydrahead.model.families.falcon_h1_rates import learning_rate_scales
from hydrahead.model.families.falcon_h1_sizes import falcon_h1_config
from hydrahead.model.families.falcon_h1_start import Start, build_falcon
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.pipeline.pretraining import PretrainJob
from hydrahead.recipes.small_teacher import COPYING, FINDING, FINDING_AMONG_MANY, TELLING_APART
from hydrahead.training.config import TrainConfig
from hydrahead.training.pretrain import ModelShape, PretrainRun
from hydrahead.training.rows import Phase


class FalconShape(ModelShape):
    """A Falcon-H1 to be trained: a published size, and what differs from it."""

    size: str = "tiny-90m"
    """A name of `falcon_h1_sizes.SIZES`."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """config.json fields in place of that size's (transformers' names)."""
    start: Start = "steps"
    base_width: int | None = Field(default=None, ge=1)
    """Hidden size at which the learning rate was tuned: rates follow muP
    (`model/families/falcon_h1_rates.py`). None gives every tensor the same rate."""

    @property
    def config(self) -> dict[str, Any]:
        """config.json of the model."""
        config = {**falcon_h1_config(self.size), **self.changes}
        if config["mamba_d_ssm"] is not None:
            config["mamba_d_head"] = config["mamba_d_ssm"] // config["mamba_n_heads"]
        return config

    @property
    def vocabulary(self) -> int:
        """Tokens of its vocabulary."""
        return self.config["vocab_size"]

    @property
    def context(self) -> int:
        """Its context length."""
        return self.config["max_position_embeddings"]

    def build(self, tokenizer: Any, seed: int) -> HydraForCausalLM:
        """A freshly initialised model, float32."""
        special = {
            name: getattr(tokenizer, name)
            for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        }
        return build_falcon({**self.config, **special}, start=self.start, seed=seed)

    def lr_scales(self, model: HydraForCausalLM) -> dict[str, float]:
        """MuP's rates by tensor, if there is a `base_width`."""
        if self.base_width is None:
            return {}
        return learning_rate_scales(model, base_width=self.base_width)


def _phases(
    tokens_per_step: int, parts: tuple[tuple[int, int, dict[str, float]], ...], text_share: float
) -> tuple[Phase, ...]:
    return tuple(
        Phase(
            steps=steps,
            length=length,
            batch_size=tokens_per_step // length,
            text_share=text_share,
            tasks=tasks,
        )
        for steps, length, tasks in parts
    )


def falcon_h1_small(
    text: str | Path, device: str = "cuda", workers: int = 8, start: Start = "steps"
) -> PretrainJob[FalconShape]:
    """A Falcon-H1 of 1.9M parameters: 6 layers of 4 attention and 4 Mamba-2 heads, context 1024.

    49M tokens in 3000 steps: minutes on a GPU, hours on one CPU core (1 - 2 s per 4096 tokens). Its
    shape is that of the arm `parallel` of benchmarks/falcon_h1, whose results are in
    docs/falcon_h1.md.

    Args:
        text: JSONL (plain or .xz) with a `text` field.
        device: where to train.
        workers: processes that make batches.
        start: how the Mamba-2 heads start: "steps" (Mamba-2's) or "transformers".

    Returns:
        The run configuration.
    """
    shape = FalconShape(
        changes={
            "num_hidden_layers": 6,
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "mamba_n_heads": 4,
            "mamba_d_ssm": 128,
            "mamba_d_state": 32,
            "vocab_size": 3072,
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "embedding_multiplier": 1.0,
            "lm_head_multiplier": 1.0,
        },
        start=start,
        base_width=128,
    )
    parts = ((750, 128, COPYING), (1500, 256, TELLING_APART), (750, 512, FINDING))
    run = PretrainRun[FalconShape](
        shape=shape,
        phases=_phases(16384, parts, 0.3),
        train=TrainConfig(
            steps=3000,
            lr=2e-3,
            min_lr=1e-4,
            warmup_steps=100,
            weight_decay=0.1,
            dtype="float32" if device == "cpu" else "bfloat16",
            checkpoint_every=500,
            log_every=50,
        ),
    )
    return PretrainJob[FalconShape](run=run, text=Path(text), device=device, workers=workers)


def falcon_h1_tiny(
    text: str | Path, device: str = "cuda", workers: int = 14, start: Start = "steps"
) -> PretrainJob[FalconShape]:
    """A model of the shape of Falcon-H1-Tiny-90M: 24 layers, 8/2 attention and 24 Mamba-2 heads.

    2.1B tokens in 8000 steps of 262144. The published model has seen far more, and text only; this
    recipe has not been run to its end here, so no result is claimed for it.

    Args:
        text: JSONL (plain or .xz) with a `text` field.
        device: where to train.
        workers: processes that make batches.
        start: how the Mamba-2 heads start: "steps" (Mamba-2's) or "transformers".

    Returns:
        The run configuration.
    """
    parts = (
        (600, 256, TELLING_APART),
        (2400, 1024, FINDING),
        (5000, 2048, FINDING_AMONG_MANY),
    )
    run = PretrainRun[FalconShape](
        shape=FalconShape(size="tiny-90m", start=start, base_width=512),
        phases=_phases(262144, parts, 0.8),
        train=TrainConfig(
            steps=8000,
            lr=1e-3,
            min_lr=1e-4,
            warmup_steps=400,
            weight_decay=0.1,
            dtype="float32" if device == "cpu" else "bfloat16",
            checkpoint_every=500,
            log_every=20,
            compile=device != "cpu",
        ),
    )
    return PretrainJob[FalconShape](run=run, text=Path(text), device=device, workers=workers)
