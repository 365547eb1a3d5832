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
from arms import SWEPT, Size, build
from data import TASKS, Extent

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
from hydrahead.training.pretrain import DenseNextToken
from hydrahead.transfer.convert import convert

FRACTIONS = ((0.125, "score"), (0.25, "score"), (0.0, "score"), (0.5, "score"),
             (0.25, "random"), (1.0, "score"))  # fmt: skip
"""full_fraction and what chooses the heads, the most telling first: time may run out."""


class Run:
    """An arm, a seed, and the settings the driver gave."""

    def __init__(self, scratch: Path, arm: str, seed: int) -> None:
        settings = json.loads((scratch / "settings.json").read_text())
        self.scratch, self.arm, self.seed = scratch, arm, seed
        self.device = torch.device(settings["device"])
        self.dtype = getattr(torch, settings["dtype"])
        self.size, self.extent = Size(**settings["size"]), Extent(**settings["extent"])
        self.lr, self.window = settings["lr"], settings["window"]
        self.repair_steps, self.pace_steps = settings["repair_steps"], settings["pace_steps"]
        self.deadline = settings["deadline"]
        self.result: dict[str, Any] = {"arm": arm, "seed": seed, "sweep": []}
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

    def train(
        self, model: HydraForCausalLM, schedule: list[tuple[int, int]], lr: float
    ) -> dict[str, Any]:
        """Steps by (phase, number); returns the last losses and the time."""
        total = sum(steps for _, steps in schedule)
        warmup = min(100, total // 5)
        config = TrainConfig(
            steps=total, lr=lr, min_lr=lr / 20, warmup_steps=warmup, weight_decay=0.1
        )
        model.train()
        optimiser, objective = MasterAdamW(model, config), DenseNextToken(model)
        started, done, curve = time.monotonic(), 0, []
        for phase, steps in schedule:
            for batch in self.batches(phase, steps, 17 * self.seed + phase):
                output = objective.backward(batch)
                optimiser.gather()
                norm = optimiser.gradient_norm()
                facts = torch.stack((output.loss, output.weight, norm)).double().tolist()
                loss, weight, size = facts
                if not (math.isfinite(loss) and math.isfinite(size)):
                    raise RuntimeError(f"loss {loss}, gradient {size} at step {done}")
                optimiser.scale_and_clip(weight, size)
                optimiser.step(config.lr_at(done))
                done += 1
                if done % 25 == 0 or done == total:
                    curve.append([done, loss / weight])
                if done % 100 == 0:
                    print(f"step {done} of {total}: loss {loss / weight:.3f}", flush=True)
        model.eval()
        seconds = time.monotonic() - started
        return {"steps": done, "seconds": seconds, "curve": curve}

    @torch.no_grad()
    def test(self, model: HydraForCausalLM) -> dict[str, Any]:
        """Share of samples whose whole answer is greedily right, by task and length; text loss."""
        found: dict[str, Any] = {"recall": {}}
        for task in TASKS:
            for length in self.extent.eval_lengths:
                ids = torch.from_numpy(self.eval[f"{task}@{length}/ids"]).long()
                labels = torch.from_numpy(self.eval[f"{task}@{length}/labels"]).long()
                found["recall"][f"{task}@{length}"] = self._exact(model, ids, labels)
        losses = []
        for rows in self.text.split(16):
            rows = rows.to(self.device)
            logits = model(rows[:, :-1], use_cache=False).logits.float()
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none"
            )
            losses.append(loss.view(len(rows), -1))
        by_place = torch.cat(losses).mean(0)
        found["text_loss"] = by_place.mean().item()
        found["loss_by_position"] = [piece.mean().item() for piece in by_place.chunk(16)]
        return found

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

    def sweep(self, model: HydraForCausalLM) -> None:
        """Full heads become window heads, fewer and fewer stay full; a short repair each."""
        home = self.scratch / f"model_{self.arm}_{self.seed}"
        model.float().save_pretrained(home)
        try:
            settings = {"pairs": 32, "length": 256, "min_recall": 0.25}
            scores = score_heads(
                model,
                load_tokenizer(SMALL_TEACHER),
                method="retrieval",
                settings=settings,
                seed=self.seed,
                batch_size=16,
            )
            self.result["scores"] = scores.values.tolist()
        except Exception as error:
            # Said in the result: such a run shows nothing about scores.
            self.result["scores_error"] = repr(error)
            scores = random_scores(model.config.head_plan.geometry, seed=self.seed)
        pace = self.result["trained"]["seconds"] / self.result["trained"]["steps"]
        for fraction, chosen in FRACTIONS:
            if time.time() + 2 * pace * self.repair_steps + 5 > self.deadline:
                self.result["sweep_cut"] = f"before full_fraction {fraction} by {chosen}"
                break
            self.result["sweep"].append(self._one(home, scores, fraction, chosen))
            self.save()

    def _one(self, home: Path, scores: HeadScores, fraction: float, chosen: str) -> dict[str, Any]:
        geometry = scores.geometry
        used = scores if chosen == "score" else random_scores(geometry, seed=100 + self.seed)
        window = f"window:window={self.window},sinks=4"
        plan: HeadPlan = make_plan(used, full_fraction=fraction, linear=window).plan
        out = home.with_name(f"{home.name}_{fraction}_{chosen}")
        hybrid = load_model(convert(home, plan, out), device=self.device).to(self.dtype)
        shutil.rmtree(out)
        before = self.test(hybrid)
        trained = self.train(hybrid, [(len(self.phases) - 1, self.repair_steps)], self.lr / 4)
        length = self.extent.lengths[-1]
        cost = plan.cost(length)
        return {
            "full_fraction": plan.full_fraction,
            "chosen_by": chosen,
            "plan": [[spec.name == "full" for spec in layer.units] for layer in plan.layers],
            "kv_bytes": cost.kv_bytes,
            "state_bytes": cost.state_bytes,
            "before_repair": before,
            "after_repair": self.test(hybrid),
            "repair": {key: trained[key] for key in ("steps", "seconds")},
        }


def main() -> None:
    """See the module's text."""
    run = Run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    model = run.fresh()
    run.result["parameters"] = sum(p.numel() for p in model.parameters())
    cost = model.config.head_plan.cost(run.extent.lengths[-1])
    run.result |= {"kv_bytes": cost.kv_bytes, "state_bytes": cost.state_bytes}
    warm = [(phase, 1) for phase in range(len(run.phases))]
    run.train(model, warm, run.lr)
    run.test(model)
    run.meet("ready", {}, "measure")
    paced = run.train(model, [(1, run.pace_steps)], run.lr)
    budget = run.meet("pace", {"seconds_per_step": paced["seconds"] / paced["steps"]}, "budget")
    steps = [phase.steps for phase in run.extent.phases(budget["steps"])]
    model = run.fresh()
    trained = run.train(model, list(enumerate(steps)), run.lr)
    run.result["trained"] = trained
    run.result["tokens"] = run.extent.tokens_per_step * trained["steps"]
    run.result["tested"] = run.test(model)
    run.result["backends"] = backends_used()
    run.save()
    if run.arm in SWEPT:
        run.sweep(model)
    run.result["finished"] = True
    run.save()


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = True
    main()
