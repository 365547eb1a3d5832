"""One arm of the study: fine-tune a base hybrid, and take parts of it back.

Fine-tuning is plain AdamW in fp32 on every parameter (or all but W_Q and W_K of the full-attention
units, `frozen`). Restorations work on parameters in memory through the same units, patches and
closed form as `hydrahead restore-qk`.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from chains import Sums, arithmetic_rows, problems, text_rows
from measure import Pairs, attention_profile, exact, recall_pairs, right_lines, right_tokens
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from hydrahead.model.loading import load_model, load_tokenizer
from hydrahead.tasks.codec import codec_from_tokenizer
from hydrahead.training.data.builtin import BuiltinText
from hydrahead.transfer.surgery_patches import HeldRows, patches
from hydrahead.transfer.surgery_units import choose_units, plan_units
from hydrahead.transfer.surgery_variants import parse_variant

State = dict[str, Tensor]
RECALL_TASKS = ("niah_single", "niah_multikey:keys=4")
BINS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
VARIANTS: Mapping[str, tuple[str, str, float, float | None]] = {
    "qk": ("full", "qk", 1.0, None),
    "q": ("full", "q", 1.0, None),
    "k": ("full", "k", 1.0, None),
    "v": ("full", "v", 1.0, None),
    "qk+norms": ("full", "qk+norms", 1.0, None),
    "pro 0.01": ("full", "pro", 1.0, 0.01),
    "pro 0.1": ("full", "pro", 1.0, 0.1),
    "pro 1": ("full", "pro", 1.0, 1.0),
    "qk alpha 0.5": ("full", "qk", 0.5, None),
    "linear qk": ("linear", "qk", 1.0, None),
    "all qk": ("all", "qk", 1.0, None),
}
"""Name -> (--layers, --variant, --alpha, --lambda)."""
PARTS: Mapping[str, Callable[[str], bool]] = {
    "part: linear mixers": lambda name: ".mixers." in name,
    "part: o_proj and fusion": lambda name: ".o_proj." in name or ".fusion." in name,
    "part: mlp": lambda name: ".mlp." in name,
    "part: embeddings": lambda name: "embed_tokens" in name or "lm_head" in name,
    "part: norms between": lambda name: "layernorm" in name or name == "model.norm.weight",
}
"""Controls: another part of the model goes back whole. Full mixers are no part of the first."""


class Arm(BaseModel):
    """What one process does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    base: str
    """The base hybrid's directory."""
    seed: int
    kind: str
    frozen: bool = False
    lr: float
    snapshots: tuple[int, ...]
    """Steps after which the model is measured; the last one is the end."""
    variants: bool
    """Measure every restoration at the end (else only `qk`)."""
    batch_size: int
    row_tokens: int
    steps_per_problem: int
    highest: int
    """Values of the arithmetic are 0 ... highest."""
    recall_length: int
    distances: tuple[int, ...]
    samples: int
    problems: int
    eval_batch: int
    device: str


def run_arm(arm: Arm, report: Callable[[dict[str, Any]], None]) -> None:
    """Do it; `report` gets everything known so far, after every measurement."""
    started = time.time()
    bench = _Bench(arm)
    result: dict[str, Any] = {"arm": arm.model_dump(), "snapshots": [], "losses": []}
    pre = _state(bench.model)
    result["before"] = {**bench.measure(), "profile": bench.profile()}
    report(result)
    done = 0
    trained = bench.fine_tune(pre)
    for snapshot in arm.snapshots:
        while done < snapshot:
            loss, done = next(trained), done + 1
            if done % max(1, arm.snapshots[-1] // 40) == 0:
                result["losses"].append([done, loss])
        post = _state(bench.model)
        entry: dict[str, Any] = {"step": done, "after": bench.measure()}
        last = snapshot == arm.snapshots[-1]
        names = [*VARIANTS, *PARTS] if last and arm.variants else ["qk"]
        entry["drift"] = bench.drift(pre, post)
        entry["restored"] = {}
        for name in names:
            with bench.holding(bench.restored(name, pre, post)):
                entry["restored"][name] = bench.measure()
                if name == "qk" and last:
                    entry["profile qk"] = bench.profile()
        if last:
            entry["profile"] = bench.profile()
        result["snapshots"].append(entry)
        result["seconds"] = round(time.time() - started, 1)
        report(result)


class _Bench:
    """A model, its data and its questions."""

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        torch.manual_seed(arm.seed)
        self.model = load_model(arm.base, dtype="float32", device=arm.device)
        tokenizer = load_tokenizer(arm.base)
        self.codec = codec_from_tokenizer(tokenizer)
        self.text = _text_tokens(tokenizer) if arm.kind == "text" else []
        names = dict(self.model.named_parameters())
        self.units = plan_units(self.model.config.head_plan, names)
        self.hardness = Sums(arm.steps_per_problem, arm.highest)
        self.questions = {
            (task, distance): recall_pairs(
                self.codec,
                task,
                length=arm.recall_length,
                distance=distance,
                count=arm.samples,
                seed=1_000_003 + arm.seed,
            )
            for task in RECALL_TASKS
            for distance in arm.distances
        }
        self.sums = {
            kind: problems(
                self.codec,
                count=arm.problems,
                seed=2_000_003 + arm.seed,
                sums=self.hardness,
                kind=kind,
            )
            for kind in ("chain", "sums")
        }

    def measure(self) -> dict[str, Any]:
        """Recall by task and distance, and the tasks' accuracies: means over the samples."""
        size = self.arm.eval_batch
        recall: dict[str, dict[str, float]] = {}
        for (task, distance), pairs in self.questions.items():
            recall.setdefault(task, {})[str(distance)] = _mean(
                exact(self.model, pairs, batch_size=size)
            )
        solved: dict[str, float] = {}
        for kind, pairs in self.sums.items():
            tokens = right_tokens(self.model, pairs, batch_size=8 * size)
            solved[kind] = _mean([float(all(right)) for right in tokens])
            if kind == "chain":
                solved["chain steps"] = _mean(self._steps_right(tokens, pairs))
        return {"recall": recall, "task": solved}

    def _steps_right(self, tokens: Sequence[Sequence[bool]], pairs: Pairs) -> list[float]:
        """Of every step of every chain, given the right ones before it; not of the answer."""
        both = zip(tokens, pairs, strict=True)
        (newline,) = self.codec.encode("\n")
        lines = [right_lines(right, pair[1], newline) for right, pair in both]
        return [float(right) for line in lines for right in line[:-1]]

    def profile(self) -> dict[str, Any]:
        """Attention and gradients by distance on held-out chain rows."""
        ids, labels = arithmetic_rows(
            "chain",
            self.codec,
            rows=4,
            length=min(512, self.arm.recall_length),
            seed=3_000_003 + self.arm.seed,
            batch=0,
            sums=self.hardness,
        )
        device = self.arm.device
        return attention_profile(self.model, ids.to(device), labels.to(device), bins=BINS)

    def fine_tune(self, pre: State) -> Iterator[float]:
        """One step at a time; yields the loss (only now and then a number that was waited for)."""
        arm = self.arm
        still: set[str] = set()
        if arm.frozen:
            found = self._patches("qk", pre, pre)
            still = {patch.tensor for patch in found}
        trained = []
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in still)
            if name not in still:
                trained.append(parameter)
        fused = arm.device != "cpu"
        adamw = torch.optim.AdamW(
            trained, lr=arm.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=fused
        )
        total, warmup = arm.snapshots[-1], max(1, arm.snapshots[-1] // 20)
        for step in range(total):
            share = min(1.0, (step + 1) / warmup)
            decay = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / total))
            for group in adamw.param_groups:
                group["lr"] = arm.lr * share * decay
            ids, labels = (tensor.to(arm.device) for tensor in self._rows(step))
            self.model.train()
            hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
            rows = labels.flatten() != -100
            logits = self.model.lm_head(hidden.flatten(0, 1)[rows])
            loss = torch.nn.functional.cross_entropy(logits, labels.flatten()[rows])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            adamw.step()
            adamw.zero_grad(set_to_none=True)
            self.model.eval()
            noted = (step + 1) % max(1, total // 40) == 0
            yield float(loss.detach()) if noted else 0.0

    def _rows(self, step: int) -> tuple[Tensor, Tensor]:
        arm = self.arm
        if arm.kind == "text":
            return text_rows(
                self.text, rows=arm.batch_size, length=arm.row_tokens, seed=arm.seed, batch=step
            )
        return arithmetic_rows(
            arm.kind,
            self.codec,
            rows=arm.batch_size,
            length=arm.row_tokens,
            seed=arm.seed,
            batch=step,
            sums=self.hardness,
        )

    def _patches(self, name: str, pre: State, post: State) -> Any:
        layers, variant, alpha, lambda_ = VARIANTS[name]
        units = choose_units(self.units, layers)
        chosen = parse_variant(variant, alpha=alpha, lambda_=lambda_)
        return patches(units, chosen, HeldRows(pre), HeldRows(post))

    def restored(self, name: str, pre: State, post: State) -> State:
        """What changes: parameter -> its new value."""
        if name in PARTS:
            full = {
                role.module
                for unit in self.units
                if unit.kind != "linear"
                for role in (unit.q, unit.k, unit.v)
                if role is not None
            }
            mine = [n for n in pre if PARTS[name](n)]
            prefixes = {module.rpartition(".projections.")[0] for module in full}
            return {n: pre[n] for n in mine if not any(n.startswith(p) for p in prefixes)}
        changed: State = {}
        for patch in self._patches(name, pre, post):
            whole = changed.setdefault(patch.tensor, post[patch.tensor].clone())
            whole[slice(*patch.span)] = patch.values().to(whole.dtype)
        return changed

    @contextmanager
    def holding(self, changed: State) -> Iterator[None]:
        """The model with these parameters; they go back afterwards."""
        named = dict(self.model.named_parameters())
        kept = {name: named[name].detach().clone() for name in changed}
        try:
            _fill(named, changed)
            yield
        finally:
            _fill(named, kept)

    def drift(self, pre: State, post: State) -> dict[str, float]:
        """Relative change of W_Q, W_K and W_V of full and linear units, and of the rest."""
        groups: dict[str, list[str]] = {}
        taken: set[str] = set()
        for unit in self.units:
            for role in ("q", "k", "v"):
                name = f"{getattr(unit, role).module}.weight"
                groups.setdefault(f"{unit.kind} {role}", []).append(name)
                taken.add(name)
        groups["mlp"] = [name for name in pre if ".mlp." in name]
        groups["embeddings"] = [name for name in pre if "embed_tokens" in name]
        return {group: _relative_change(pre, post, names) for group, names in groups.items()}


def _relative_change(pre: State, post: State, names: Sequence[str]) -> float:
    change = sum(float((post[name] - pre[name]).double().square().sum()) for name in names)
    size = sum(float(pre[name].double().square().sum()) for name in names)
    return math.sqrt(change / size)


@torch.no_grad()
def _fill(named: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        named[name].copy_(value)


def _state(model: Any) -> State:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def _text_tokens(tokenizer: Any) -> list[int]:
    """Two million characters or so of the built-in corpus, as one stream."""
    tokens: list[int] = []
    for record in BuiltinText(tokenizer).records(0):
        text = record if isinstance(record, str) else Path(record).read_text(errors="ignore")
        tokens += tokenizer.encode(text[:20000], add_special_tokens=False)
        if len(tokens) > 600_000:
            break
    return tokens


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
