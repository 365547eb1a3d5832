"""One run of the Falcon-H1 study, as a process: train an arm, test it, give its full heads away.

    python train.py SCRATCH ARM SEED

Runs meet at two points, so that all arms train on the same number of tokens whatever the machine
does: when they are warm (`ready`), and when they have measured their pace among the others
(`pace`). The driver answers with files in SCRATCH. Results go to SCRATCH/result_ARM_SEED.json
after every stage.
"""

import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import SINKS, SWEPT, Size, build
from data import TASKS, Extent
from step import Step

from hydrahead.core.jsonio import write_json
from hydrahead.kernels.backend import backends_used
from hydrahead.model.loading import load_model, load_tokenizer
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.make import make_plan
from hydrahead.plan.scores import HeadScores, random_scores
from hydrahead.recipes.demo import SMALL_TEACHER
from hydrahead.scoring.run import score_heads
from hydrahead.training.batch import IGNORE, Batch
from hydrahead.training.config import TrainConfig
from hydrahead.training.optimiser import MasterAdamW
from hydrahead.transfer.convert import convert

FRACTIONS = ((0.125, "score"), (0.25, "score"), (0.0, "score"), (0.5, "score"),
             (0.25, "random"), (1.0, "score"))  # fmt: skip
"""full_fraction and what chooses the heads, the most telling first: time may run out."""
PROBES = {"retrieval": ("niah_single", "niah_multikey:keys=4", "mqar")}
LOOKS = 12
"""Tests of recall during training."""
TEST_SECONDS = 12
"""Kept for the tests of a run that is not done in time."""


class Run:
    """An arm, a seed, and the settings the driver gave."""

    probe_pairs = 32
    """Needle pairs of a sub-probe that the heads are scored on."""

    def __init__(self, scratch: Path, arm: str, seed: int) -> None:
        settings = json.loads((scratch / "settings.json").read_text())
        self.scratch, self.arm, self.seed = scratch, arm, seed
        self.device = torch.device(settings["device"])
        self.dtype = getattr(torch, settings["dtype"])
        self.size, self.extent = Size(**settings["size"]), Extent(**settings["extent"])
        self.lr = settings["lr"]
        self.window = f"window:window={settings['window']},sinks={SINKS}"
        self.repair_steps, self.pace_steps = settings["repair_steps"], settings["pace_steps"]
        self.deadline, self.graphs = settings["deadline"], settings["graphs"]
        self.result: dict[str, Any] = {"arm": arm, "seed": seed, "sweep": []}
        while not (scratch / "data" / "done").exists():
            time.sleep(0.1)
        self.phases = [
            [
                torch.from_numpy(np.load(scratch / "data" / f"phase{i}_{name}.npy")).to(self.device)
                for name in ("ids", "labels", "weights")
            ]
            for i in range(len(self.extent.lengths))
        ]
        self.eval = np.load(scratch / "data" / "eval.npz")
        self.text = torch.from_numpy(np.load(scratch / "data" / "text_rows.npy")).long()

    def save(self) -> None:
        """What is known so far."""
        write_json(self.scratch / f"result_{self.arm}_{self.seed}.json", self.result)

    def meet(self, name: str, content: dict[str, Any], answer: str) -> dict[str, Any]:
        """Say where this run is, and wait for the driver's answer."""
        write_json(self.scratch / f"{name}_{self.arm}_{self.seed}.json", content)
        path = self.scratch / f"{answer}.json"
        while not path.exists():
            time.sleep(0.05)
        time.sleep(0.05)
        return json.loads(path.read_text())

    def batches(self, phase: int, steps: int, seed: int) -> Iterator[Batch]:
        """`steps` batches of a phase, in an order of this seed's own."""
        ids, labels, weights = self.phases[phase]
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed)).tolist()
        length = ids.shape[-1]
        positions = torch.arange(length, device=self.device).expand(ids.shape[1], -1)
        for index in range(steps):
            at = order[index % len(order)]
            yield Batch(
                input_ids=ids[at].long(),
                labels=labels[at].long(),
                position_ids=positions,
                target_weights=weights[at].unsqueeze(1).expand(-1, length),
            )

    def fresh(self) -> HydraForCausalLM:
        """The arm's model as it starts, in the training dtype."""
        return build(self.arm, self.size, self.seed).to(self.device).to(self.dtype)  # type: ignore[arg-type]

    def rates(self, model: HydraForCausalLM) -> dict[str, float]:
        """By parameter, what its learning rate is multiplied by."""
        return {}

    def train(
        self,
        model: HydraForCausalLM,
        schedule: list[tuple[int, int]],
        lr: float,
        *,
        watch: bool = False,
        until: float | None = None,
    ) -> dict[str, Any]:
        """Steps by (phase, number); returns the losses and the time.

        Args:
            model: Changed in place; in evaluation mode afterwards.
            schedule: Phases with their numbers of steps.
            lr: At the end of the warm-up.
            watch: Test recall at the shortest length on the way, `LOOKS` times, and save.
            until: Time at which to stop, finished or not.
        """
        total = sum(steps for _, steps in schedule)
        config = TrainConfig(
            steps=total, lr=lr, min_lr=lr / 20, warmup_steps=min(100, total // 5), weight_decay=0.1
        )
        model.train()
        optimiser = MasterAdamW(model, config, self.rates(model))
        found: dict[str, Any] = {"steps": 0, "seconds": 0.0, "curve": [], "recall": []}
        found["captured"] = []
        started, aside, done = time.monotonic(), 0.0, 0
        for phase, steps in schedule:
            step: Step | None = None
            for batch in self.batches(phase, steps, 17 * self.seed + phase):
                if step is None:
                    begun = time.monotonic()
                    step = Step(model, batch, graphs=self.graphs)
                    found["captured"].append(step.captured)
                    aside += time.monotonic() - begun
                loss, weight = step(batch)
                optimiser.gather()
                facts = torch.stack((loss, weight, optimiser.gradient_norm())).double().tolist()
                if not all(map(math.isfinite, facts)):
                    raise RuntimeError(f"loss, weight, gradient {facts} at step {done}")
                optimiser.scale_and_clip(facts[1], facts[2])
                optimiser.step(config.lr_at(done))
                done += 1
                found |= {"steps": done, "seconds": time.monotonic() - started - aside}
                if done % 25 == 0 or done == total:
                    found["curve"].append([done, facts[0] / facts[1]])
                if watch and done % max(1, total // LOOKS) == 0:
                    begun = time.monotonic()
                    found["recall"].append([done, self.recall(model, self.extent.eval_lengths[:1])])
                    aside += time.monotonic() - begun
                    self.result["trained"] = found
                    self.save()
                    print(f"step {done} of {total}: {found['curve'][-1:]}", flush=True)
                    model.train()
                if until is not None and time.time() > until:
                    found["cut_at"] = done
                    model.eval()
                    return found
        model.eval()
        return found

    def test(self, model: HydraForCausalLM, lengths: tuple[int, ...]) -> dict[str, Any]:
        """Recall and text loss."""
        return {"recall": self.recall(model, lengths), **self.text_loss(model)}

    @torch.no_grad()
    def recall(self, model: HydraForCausalLM, lengths: tuple[int, ...]) -> dict[str, float]:
        """Share of samples whose whole answer is greedily right, by task and length."""
        model.eval()
        found = {}
        for key in (f"{task}@{length}" for length in lengths for task in TASKS):
            ids, labels = (torch.from_numpy(self.eval[f"{key}/{x}"]) for x in ("ids", "labels"))
            found[key] = self._exact(model, ids.long(), labels.long())
        return found

    @torch.no_grad()
    def text_loss(self, model: HydraForCausalLM) -> dict[str, Any]:
        """Loss on text kept apart: its mean, and by sixteenths of the row."""
        losses = []
        for rows in self.text.split(16):
            rows = rows.to(self.device)
            logits = model(rows[:, :-1], use_cache=False).logits.float()
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none"
            )
            losses.append(loss.view(len(rows), -1))
        by_place = torch.cat(losses).mean(0)
        pieces = [piece.mean().item() for piece in by_place.chunk(16)]
        return {"text_loss": by_place.mean().item(), "loss_by_position": pieces}

    def _exact(self, model: HydraForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> float:
        """Forced answers: the argmax is right at every token exactly if greedy decoding is."""
        right = []
        for row_ids, row_labels in zip(ids.split(32), labels.split(32), strict=True):
            wanted = row_labels.to(self.device)
            hidden = model.model(row_ids.to(self.device), use_cache=False).last_hidden_state
            asked = wanted != IGNORE
            ok = torch.ones_like(asked)
            ok[asked] = model.lm_head(hidden[asked]).argmax(-1) == wanted[asked]
            right.append(ok.all(1))
        return torch.cat(right).double().mean().item()

    def score(self, model: HydraForCausalLM) -> HeadScores:
        """Retrieval scores of its heads, also in the result."""
        settings = {
            "pairs": self.probe_pairs,
            "length": 256,
            "min_recall": 0.5,
            "probes": PROBES,
        }
        scores = score_heads(
            model,
            load_tokenizer(SMALL_TEACHER),
            method="retrieval",
            settings=settings,
            seed=self.seed,
            batch_size=16,
        )
        self.result["scores"] = scores.values.tolist()
        return scores

    def sweep(self, model: HydraForCausalLM) -> None:
        """Full heads become window heads, fewer and fewer stay full; a short repair each."""
        home = self.scratch / f"model_{self.arm}_{self.seed}"
        model.float().save_pretrained(home)
        try:
            scores = self.score(model)
        except Exception as error:
            # A model that recalls nothing has no scores, and its sweep would show nothing.
            self.result["scores_error"] = repr(error)
            return
        trained = self.result["trained"]
        pace = trained["seconds"] / trained["steps"]
        for fraction, chosen in FRACTIONS:
            if time.time() + 2 * pace * self.repair_steps + 5 > self.deadline:
                self.result["sweep_cut"] = f"before full_fraction {fraction} by {chosen}"
                break
            self.result["sweep"].append(self._one(home, scores, fraction, chosen))
            self.save()

    def _one(self, home: Path, scores: HeadScores, fraction: float, chosen: str) -> dict[str, Any]:
        plan = self.plan(scores, fraction, chosen, self.window)
        hybrid = self.hybrid(home, plan, chosen)
        before = self.test(hybrid, self.extent.eval_lengths[:2])
        return {"before_repair": before, **self.repair(hybrid, plan, chosen)}

    def plan(self, scores: HeadScores, fraction: float, chosen: str, other: str) -> HeadPlan:
        """Heads that stay full by score or by chance; `other` is what the rest run."""
        geometry = scores.geometry
        used = scores if chosen == "score" else random_scores(geometry, seed=100 + self.seed)
        return make_plan(used, full_fraction=fraction, linear=other).plan

    def hybrid(
        self, home: Path, plan: HeadPlan, chosen: str, *, calibrate: Path | None = None
    ) -> HydraForCausalLM:
        """The model at `home` converted to a plan; nothing of it stays on the disk."""
        name = f"hybrid_{self.arm}_{self.seed}_{plan.full_fraction}_{chosen}"
        out = convert(home, plan, self.scratch / name, calibrate=calibrate)
        found = load_model(out, device=self.device).to(self.dtype)
        shutil.rmtree(out)
        return found

    def repair(self, hybrid: HydraForCausalLM, plan: HeadPlan, chosen: str) -> dict[str, Any]:
        """A short training on the longest rows, and what came of it."""
        schedule = [(len(self.phases) - 1, self.repair_steps)]
        trained = self.train(hybrid, schedule, self.lr / 4, until=self.deadline - 8)
        cost = plan.cost(self.extent.lengths[-1])
        return {
            "full_fraction": plan.full_fraction,
            "parameters": sum(p.numel() for p in hybrid.parameters()),
            "chosen_by": chosen,
            "plan": [[spec.name == "full" for spec in layer.units] for layer in plan.layers],
            "kv_bytes": cost.kv_bytes,
            "state_bytes": cost.state_bytes,
            "after_repair": self.test(hybrid, self.extent.eval_lengths[:2]),
            "repair": {key: trained[key] for key in ("steps", "seconds")},
        }


def main() -> None:
    """See the module's text."""
    run = Run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    model = run.fresh()
    run.result["parameters"] = sum(p.numel() for p in model.parameters())
    cost = model.config.head_plan.cost(run.extent.lengths[-1])
    run.result |= {"kv_bytes": cost.kv_bytes, "state_bytes": cost.state_bytes}
    run.train(model, [(phase, 1) for phase in range(len(run.phases))], run.lr)
    run.test(model, run.extent.eval_lengths)
    run.meet("ready", {}, "measure")
    paced = run.train(model, [(2, run.pace_steps)], run.lr)
    budget = run.meet("pace", {"seconds_per_step": paced["seconds"] / paced["steps"]}, "budget")
    steps = [phase.steps for phase in run.extent.phases(budget["steps"])]
    model = run.fresh()
    until = run.deadline - TEST_SECONDS
    trained = run.train(model, list(enumerate(steps)), run.lr, watch=True, until=until)
    run.result["trained"] = trained
    run.result["tokens"] = run.extent.tokens_per_step * trained["steps"]
    run.result["tested"] = run.test(model, run.extent.eval_lengths)
    run.result["backends"] = backends_used()
    run.save()
    if run.arm in SWEPT:
        run.sweep(model)
    run.result["finished"] = True
    run.save()


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = True
    main()
