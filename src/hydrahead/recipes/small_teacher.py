"""The bundled small teacher, from nothing but text and generated recall tasks.

A length curriculum, because without one nothing is learned for a long time: short rows dense with
repeats first (copying), then needles told apart by their keys with many questions a row, then
growing lengths.
"""

from pathlib import Path

from hydrahead.pipeline.pretraining import PretrainJob
from hydrahead.training.config import TrainConfig
from hydrahead.training.pretrain import DecoderShape, PretrainRun
from hydrahead.training.rows import Phase

TOKENS_PER_STEP = 65536

COPYING = {"copy_spans": 2.0, "niah_single": 1.0, "mqar": 1.0, "niah_rounds:keys=2": 2.0}
TELLING_APART = {
    "niah_rounds:keys=4": 4.0,
    "niah_rounds:keys=2": 2.0,
    "niah_single": 1.0,
    "mqar": 1.0,
    "copy_spans": 1.0,
}
FINDING = {
    "niah_rounds:keys=8": 3.0,
    "niah_rounds:keys=4": 1.0,
    "niah_single": 1.0,
    "niah_multikey:keys=4": 1.0,
    "niah_multiquery:keys=4,queries=2": 1.0,
    "niah_multivalue": 1.0,
    "variable_tracking": 1.0,
    "mqar": 1.0,
    "copy_spans": 0.5,
    "general": 0.5,
}
FINDING_AMONG_MANY = {**FINDING, "niah_rounds:keys=16": 2.0, "niah_multikey:keys=4": 2.0}


def _phase(steps: int, length: int, tasks: dict[str, float], text_share: float) -> Phase:
    return Phase(
        steps=steps,
        length=length,
        batch_size=TOKENS_PER_STEP // length,
        text_share=text_share,
        tasks=tasks,
    )


def small_teacher(
    text: str | Path, device: str = "cuda", workers: int = 14
) -> PretrainJob[DecoderShape]:
    """A Qwen3-shaped decoder of 4M parameters with a context of 2048 tokens.

    459M tokens in 7000 steps take 4 minutes on one H200 (with 14 processes making batches). The
    bundled one answers 100 % of single needles and of 4 keys at 2048 tokens (n = 64 each).

    Args:
        text: JSONL (plain or .xz) with a `text` field; benchmarks/small_teacher/prepare_text.py
            makes one.
        device: where to train.
        workers: processes that make batches.

    Returns:
        The run configuration.
    """
    phases = (
        _phase(600, 128, COPYING, 0.3),
        _phase(1600, 256, TELLING_APART, 0.3),
        _phase(1600, 512, FINDING, 0.35),
        _phase(1200, 1024, FINDING_AMONG_MANY, 0.4),
        _phase(2000, 2048, FINDING_AMONG_MANY, 0.4),
    )
    run = PretrainRun[DecoderShape](
        shape=DecoderShape(
            vocab_size=3072,
            hidden_size=192,
            intermediate_size=512,
            num_layers=8,
            num_q_heads=8,
            num_kv_heads=4,
            head_dim=32,
            max_positions=2048,
        ),
        phases=phases,
        train=TrainConfig(
            steps=sum(phase.steps for phase in phases),
            lr=2e-3,
            min_lr=1e-4,
            warmup_steps=200,
            weight_decay=0.1,
            dtype="bfloat16",
            checkpoint_every=2000,
            log_every=50,
            compile=True,
        ),
    )
    return PretrainJob[DecoderShape](run=run, text=Path(text), device=device, workers=workers)
