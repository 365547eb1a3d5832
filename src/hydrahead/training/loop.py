"""The training loop: objective in, checkpoints and metrics out. It knows nothing of hybrids.

One optimiser step: `accumulation` micro-batches add the gradients of their summed losses; the sum
is divided once by the number of targets, clipped, and stepped. A run is a pure function of its
model, data and configuration: stopped anywhere and started again by the same call it ends, on the
CPU, with the same bits.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.progress import Progress
from hydrahead.training.batch import Batch
from hydrahead.training.checkpoints import (
    Checkpoint,
    latest_checkpoint,
    random_states,
    require_same_identity,
    save_checkpoint,
    set_random_states,
)
from hydrahead.training.config import TrainConfig
from hydrahead.training.interrupts import StopRequest, TrainingInterrupted
from hydrahead.training.layers import compile_layers, decoder_layers, recomputed_activations
from hydrahead.training.memory import require_memory
from hydrahead.training.metrics import MetricsFile
from hydrahead.training.objectives import Objective
from hydrahead.training.optimiser import MasterAdamW


class ResumableBatches(Protocol):
    """Batches that know where they are; `state_dict` (JSON) names the next batch to draw."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> Mapping[str, Any]:
        """Where the next batch comes from."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; called before `__iter__`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a finished run reports."""

    steps: int
    tokens: int
    final_loss: float
    """Mean loss per target over the last logged interval."""
    wall_seconds: float
    """Of this process; a resumed run counts from its resumption."""


@dataclass(slots=True)
class _Interval:
    """Sums since the last logged line."""

    started: float = 0.0
    loss: float = 0.0
    weight: float = 0.0
    tokens: int = 0
    """Tokens read by this process, for the rate."""
    sums: dict[str, float] = field(default_factory=dict)

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.weight, 1e-30)

    def means(self) -> dict[str, float]:
        weight = max(self.weight, 1e-30)
        return {"loss": self.mean_loss} | {k: v / weight for k, v in self.sums.items()}


def train(
    model: nn.Module,
    objective: Objective,
    batches: ResumableBatches,
    config: TrainConfig,
    directory: Path,
    *,
    progress: Progress | None = None,
    label: str = "train",
    identity: Mapping[str, Any] | None = None,
    blocks: Sequence[nn.Module] | None = None,
    layer_by_layer: bool = False,
    lr_scales: Mapping[str, float] | None = None,
) -> TrainResult:
    """Train all parameters that require a gradient, or go on where an earlier call stopped.

    Args:
        model: On its device and in its compute dtype; `config.dtype` is not applied here.
        objective: Adds gradients of a batch's summed loss.
        batches: The data; asked for its position whenever a checkpoint is written.
        config: How long and how fast.
        directory: Gets `metrics.jsonl` and `checkpoints/`; found again by the same call.
        progress: Where to show tokens per second, loss and time left.
        label: Name shown in front of the progress.
        identity: Anything else that must agree for a resume (data source, model hash); JSON.
        blocks: What is compiled, or recomputed in backward, one by one; the decoder layers if not
            given.
        layer_by_layer: The objective holds one layer's activations at a time (for the memory
            estimate).
        lr_scales: Parameter name -> what its learning rate is multiplied by.

    Raises:
        HydraHeadError: The run cannot fit into memory, the loss is not finite, a checkpoint is
            damaged, or an unfinished run with other settings is in `directory`.
        TrainingInterrupted: SIGINT or SIGTERM came; the step was finished and saved first.
    """
    require_memory(model, config, layer_by_layer=layer_by_layer)
    facts = dict(identity or {}) | ({"lr_scales": dict(lr_scales)} if lr_scales else {})
    optimiser = MasterAdamW(model, config, lr_scales)
    run = _Run(optimiser, model, objective, batches, config, directory, facts, label)
    blocks = decoder_layers(model) if blocks is None else blocks
    if config.compile:
        compile_layers(blocks)
    with ExitStack() as stack:
        if config.activation_checkpointing:
            stack.enter_context(recomputed_activations(blocks))
        shown = progress or stack.enter_context(Progress(silent=True))
        stop = stack.enter_context(StopRequest())
        metrics = MetricsFile(directory / "metrics.jsonl", done_steps=run.step)
        stack.callback(metrics.close)
        was_training = model.training
        model.train()
        stack.callback(model.train, was_training)
        return run.finish(stop, metrics, shown)


class _Run:
    """One run's moving parts: the optimiser, the step counter and the data."""

    def __init__(
        self,
        optimiser: MasterAdamW,
        model: nn.Module,
        objective: Objective,
        batches: ResumableBatches,
        config: TrainConfig,
        directory: Path,
        identity: dict[str, Any],
        label: str,
    ) -> None:
        self._objective = objective
        self._batches = batches
        self._config = config
        self._directory = directory
        self._label = label
        self._device = next(model.parameters()).device
        self._identity = identity | {"config": config.model_dump(mode="json")}
        self._optimiser = optimiser
        self.step = 0
        self._tokens = 0
        self._final_loss = math.nan
        self._interval = _Interval()
        self._resume()

    @property
    def _checkpoints(self) -> Path:
        return self._directory / "checkpoints"

    def _resume(self) -> None:
        checkpoint = latest_checkpoint(self._checkpoints)
        if checkpoint is None:
            torch.manual_seed(self._config.seed)
            return
        require_same_identity(checkpoint.identity, self._identity, self._checkpoints)
        self._optimiser.load(checkpoint.masters, checkpoint.optimiser)
        self._batches.load_state_dict(checkpoint.data)
        set_random_states(checkpoint.random)
        self.step = checkpoint.step
        counters = checkpoint.counters
        self._tokens = counters["tokens"]
        if counters["final_loss"] is not None:
            self._final_loss = counters["final_loss"]
        self._interval = _Interval(
            loss=counters["loss"], weight=counters["weight"], sums=counters["sums"]
        )

    def _save(self) -> None:
        masters, optimiser = self._optimiser.tensors()
        interval = self._interval
        counters = {
            "tokens": self._tokens,
            "final_loss": self._final_loss if math.isfinite(self._final_loss) else None,
            "loss": interval.loss,
            "weight": interval.weight,
            "sums": interval.sums,
        }
        checkpoint = Checkpoint(
            step=self.step,
            identity=self._identity,
            data=self._batches.state_dict(),
            counters=counters,
            masters=masters,
            optimiser=optimiser,
            random=random_states(),
        )
        done = self.step == self._config.num_steps
        keep = 1 if done else self._config.keep_checkpoints
        save_checkpoint(self._checkpoints, checkpoint, keep=keep)

    def finish(self, stop: StopRequest, metrics: MetricsFile, progress: Progress) -> TrainResult:
        """Run the remaining steps."""
        config = self._config
        started = time.monotonic()
        task = progress.task(self._label, config.num_steps, done=self.step)
        self._interval.started = started
        stream = iter(self._batches) if self.step < config.num_steps else iter(())
        while self.step < config.num_steps:
            interval = self._interval
            grad_norm = self._advance(stream, interval)
            done = self.step == config.num_steps
            rate = interval.tokens / max(time.monotonic() - interval.started, 1e-9)
            if done or self.step % config.log_every == 0:
                self._log(metrics, interval, grad_norm)
            task.advance(1, loss=interval.mean_loss, tokens_per_second=round(rate))
            if done or stop.requested or self.step % config.checkpoint_every == 0:
                self._save()
            if stop.requested and not done:
                raise TrainingInterrupted(
                    f"stopped after step {self.step} of {config.num_steps}; "
                    "the same command resumes"
                )
        return TrainResult(
            steps=self.step,
            tokens=self._tokens,
            final_loss=self._final_loss,
            wall_seconds=time.monotonic() - started,
        )

    def _advance(self, stream: Iterator[Batch], interval: _Interval) -> float:
        """One optimiser step; returns the gradient norm before clipping."""
        losses: list[torch.Tensor] = []
        weights: list[torch.Tensor] = []
        sums: dict[str, torch.Tensor] = {}
        for _ in range(self._config.accumulation):
            batch = next(stream, None)
            if batch is None:
                raise HydraHeadError(
                    f"the data ended at step {self.step} of {self._config.num_steps}",
                    mend="ask for fewer steps or give more data",
                )
            self._tokens += batch.num_tokens
            interval.tokens += batch.num_tokens
            output = self._objective.backward(batch.to(self._device))
            self._optimiser.gather()
            losses.append(output.loss.double())
            weights.append(output.weight.double())
            for name, value in output.sums.items():
                sums[name] = sums[name] + value if name in sums else value
        norm = self._optimiser.gradient_norm().double()
        # The only wait for the device in a step: everything the host needs, in one transfer.
        numbers = torch.stack(
            [
                torch.stack(losses).sum(),
                torch.stack(weights).sum(),
                norm,
                *(v.double() for v in sums.values()),
            ]
        ).tolist()
        loss, weight, gradient_norm = numbers[:3]
        self._require_finite(loss, gradient_norm)
        if weight > 0:
            self._optimiser.scale_and_clip(weight, gradient_norm)
        self._optimiser.step(self._config.lr_at(self.step))
        self.step += 1
        interval.loss += loss
        interval.weight += weight
        for name, value in zip(sums, numbers[3:], strict=True):
            interval.sums[name] = interval.sums.get(name, 0.0) + value
        return gradient_norm / max(weight, 1e-30)

    def _require_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        what = (
            f"the loss became {loss}" if not math.isfinite(loss) else f"the gradient became {norm}"
        )
        raise HydraHeadError(
            f"{what} at step {self.step + 1}",
            where=self._label,
            mend="lower lr, lengthen warmup_steps or clip harder; nothing of this step was kept",
        )

    def _log(self, metrics: MetricsFile, interval: _Interval, grad_norm: float) -> None:
        means = interval.means()
        now = time.monotonic()
        self._final_loss = means["loss"]
        metrics.write(
            {
                "step": self.step,
                "tokens": self._tokens,
                "lr": self._config.lr_at(self.step - 1),
                "grad_norm": grad_norm,
                **means,
                "tokens_per_second": interval.tokens / max(now - interval.started, 1e-9),
            }
        )
        self._interval = _Interval(started=now)
