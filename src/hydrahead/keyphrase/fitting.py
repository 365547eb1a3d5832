"""The loop: steps, an evaluation after every epoch, the best epoch's parameters kept aside."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.progress import Progress
from hydrahead.keyphrase.batches import IGNORE, Part, batch_labels, epoch_batches
from hydrahead.keyphrase.encodings import pad_id_of
from hydrahead.keyphrase.modeling import KeyphraseModel
from hydrahead.keyphrase.prediction import (
    Decoding,
    batch_context,
    choose_decoding,
    predict,
    run_windows,
    stack_states,
)
from hydrahead.keyphrase.settings import FULL_LR, HEAD_LR, KeyphraseSettings
from hydrahead.training.checkpoints import (
    Checkpoint,
    latest_checkpoint,
    random_states,
    require_same_identity,
    save_checkpoint,
    set_random_states,
)
from hydrahead.training.interrupts import StopRequest, TrainingInterrupted
from hydrahead.training.metrics import MetricsFile

_SELECT = "f1@m"
"""The validation score an epoch is chosen by."""


@dataclass(slots=True)
class FitResult:
    """What a finished fit reports; the epoch, threshold and ranking come from validation alone."""

    epoch: int = -1
    threshold: float = 0.5
    ranking: str = "sum"
    scores: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per epoch: its validation scores and decoding."""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "best_epoch": self.epoch,
            "threshold": self.threshold,
            "ranking": self.ranking,
            "validation": self.scores,
            "history": self.history,
            "seconds": round(self.seconds, 3),
        }

    def take(self, epoch: int, chosen: Decoding) -> bool:
        """Note an epoch; whether it is the best so far."""
        entry = {"epoch": epoch, "threshold": chosen.threshold, "ranking": chosen.ranking}
        self.history.append({**entry, **chosen.scores})
        better = self.epoch < 0 or chosen.scores[_SELECT] > self.scores[_SELECT]
        if better:
            self.epoch, self.threshold, self.ranking = epoch, chosen.threshold, chosen.ranking
            self.scores = dict(chosen.scores)
        return better


class Fit:
    """One run's moving parts.

    Args:
        model: On its device; what requires a gradient is trained.
        train: What is learned.
        valid: What epoch and decoding are chosen on.
        settings: How.
        tokenizer: For the padding's id.
        folder: Gets checkpoints, metrics and the best parameters; found again by the same call.
    """

    def __init__(
        self,
        model: KeyphraseModel,
        train: Part,
        valid: Part,
        settings: KeyphraseSettings,
        tokenizer: Any,
        folder: Path,
    ) -> None:
        self._model = model
        self._train, self._valid = train, valid
        self._settings = settings
        self._pad = pad_id_of(tokenizer)
        self._folder = folder
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._adamw = _optimiser(self._trained, settings)
        self._rates = [group["lr"] for group in self._adamw.param_groups]
        self._steps_per_epoch = len(self._batches(0))
        if not self._steps_per_epoch:
            raise HydraHeadError("the training documents have no words")
        words = sum(len(labels) for labels in train.labels)
        self._words_per_step = max(1.0, words / self._steps_per_epoch)
        self.step = 0
        self.result = FitResult()
        self._resume()

    @property
    def num_steps(self) -> int:
        """Of all epochs."""
        return self._steps_per_epoch * self._settings.epochs

    def run(self, progress: Progress) -> FitResult:
        """Run what is left; the model then has the best epoch's parameters.

        Raises:
            HydraHeadError: The loss is not finite, or an unfinished run of other settings is here.
            TrainingInterrupted: SIGINT or SIGTERM came; the step was finished and saved first.
        """
        started = time.monotonic()
        with ExitStack() as stack:
            stop = stack.enter_context(StopRequest())
            metrics = MetricsFile(self._folder / "metrics.jsonl", done_steps=self.step)
            stack.callback(metrics.close)
            task = progress.task("train", self.num_steps, done=self.step)
            for epoch, batch in self._plan():
                loss = self._advance(batch)
                if self.step % self._settings.log_every == 0 or self.step == self.num_steps:
                    metrics.write({"step": self.step, "epoch": epoch, "loss": loss})
                task.advance(1, epoch=epoch, loss=loss)
                if self.step % self._steps_per_epoch == 0:
                    self._validate(epoch)
                at_end = self.step % self._steps_per_epoch == 0
                if at_end or stop.requested or self.step % self._settings.checkpoint_every == 0:
                    self._save()
                if stop.requested and self.step < self.num_steps:
                    raise TrainingInterrupted(
                        f"stopped after step {self.step} of {self.num_steps}; "
                        "the same command resumes"
                    )
        best = load_file(self._folder / "best.safetensors")
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(best[name])
        self._model.eval()
        self.result.seconds += time.monotonic() - started
        return self.result

    def _batches(self, epoch: int) -> list[tuple[int, list[int]]]:
        size, seed = self._settings.batch_size, self._settings.seed
        return epoch_batches(self._train, batch_size=size, seed=seed, epoch=epoch)

    def _plan(self) -> Iterator[tuple[int, tuple[int, list[int]]]]:
        """Epoch and batch of every step that is left."""
        while self.step < self.num_steps:
            epoch, done = divmod(self.step, self._steps_per_epoch)
            for batch in self._batches(epoch)[done:]:
                yield epoch, batch

    def _advance(self, batch: tuple[int, list[int]]) -> float:
        """One step; returns the mean loss of its words."""
        settings, (number, windows) = self._settings, batch
        self._model.train()
        if settings.freeze_encoder:
            self._model.encoder.eval()
        part = self._train
        chosen = [part.prepared[number].windows[window] for window in windows]
        context = batch_context(
            self._model, part.prepared[number].context, windows, donor=part.donor(number)
        )
        states = part.state(number)
        device = self._model.classifier.weight.device
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.dtype == "bfloat16"):
            encoded = None if states is None else stack_states(chosen, states)
            logits = run_windows(self._model, chosen, context, pad_id=self._pad, encoded=encoded)
        labels = batch_labels(chosen, part.labels[number]).to(device)
        total = nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        # Divided by a constant, not by this batch's words: every word weighs the same.
        (total / self._words_per_step).backward()
        clip = nn.utils.clip_grad_norm_(self._trained.values(), settings.clip)
        loss, norm = torch.stack([total.detach(), clip]).tolist()
        if not abs(loss) + abs(norm) < float("inf"):
            raise HydraHeadError(
                f"the loss or its gradient is not finite at step {self.step + 1}",
                mend="lower lr and head_lr",
            )
        scale = settings.lr_scale(self.step, self.num_steps)
        for group, rate in zip(self._adamw.param_groups, self._rates, strict=True):
            group["lr"] = rate * scale
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self.step += 1
        return loss / max(1, int((labels != IGNORE).sum()))

    def _validate(self, epoch: int) -> None:
        probabilities = predict_part(self._model, self._valid, pad_id=self._pad)
        documents = [one.document for one in self._valid.prepared]
        chosen = choose_decoding(
            documents, probabilities, max_words=self._settings.max_phrase_words
        )
        if self.result.take(epoch, chosen):
            kept = {name: p.detach().cpu().contiguous() for name, p in self._trained.items()}
            partial = self._folder / "best.tmp"
            save_file(kept, partial)
            partial.replace(self._folder / "best.safetensors")

    def _save(self) -> None:
        state: dict[str, Tensor] = {}
        for name, parameter in self._trained.items():
            for key, value in self._adamw.state.get(parameter, {}).items():
                state[f"{key}/{name}"] = value
        checkpoint = Checkpoint(
            step=self.step,
            identity={"settings": self._settings.model_dump(mode="json")},
            data={},
            counters=self.result.as_json(),
            masters={name: p.detach() for name, p in self._trained.items()},
            optimiser=state,
            random=random_states(),
        )
        save_checkpoint(self._folder / "checkpoints", checkpoint, keep=1)

    def _resume(self) -> None:
        folder = self._folder / "checkpoints"
        checkpoint = latest_checkpoint(folder)
        if checkpoint is None:
            return
        identity = {"settings": self._settings.model_dump(mode="json")}
        require_same_identity(checkpoint.identity, identity, folder)
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(checkpoint.masters[name])
                moments = {
                    key.split("/", 1)[0]: value.to(parameter.device)
                    for key, value in checkpoint.optimiser.items()
                    if key.split("/", 1)[1] == name
                }
                if moments:
                    self._adamw.state[parameter] = moments
        set_random_states(checkpoint.random)
        self.step = checkpoint.step
        kept = checkpoint.counters
        self.result = FitResult(
            epoch=kept["best_epoch"],
            threshold=kept["threshold"],
            ranking=kept["ranking"],
            scores=kept["validation"],
            history=kept["history"],
            seconds=kept["seconds"],
        )


def predict_part(model: KeyphraseModel, part: Part, *, pad_id: int) -> list[Any]:
    """Probabilities of every document of a split."""
    model.eval()
    return [
        predict(model, one, pad_id=pad_id, states=part.state(n), donor=part.donor(n))
        for n, one in enumerate(part.prepared)
    ]


def _optimiser(trained: dict[str, nn.Parameter], settings: KeyphraseSettings) -> torch.optim.AdamW:
    """AdamW with a learning rate for the encoder and one for the rest; matrices decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        encoder = name.startswith("encoder.")
        rate = settings.lr or FULL_LR if encoder else settings.head_lr or HEAD_LR
        decay = settings.weight_decay if parameter.ndim > 1 and "static" not in name else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": ps, "lr": rate, "weight_decay": decay} for (rate, decay), ps in groups.items()],
        fused=True,
    )
