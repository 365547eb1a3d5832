"""One run of the study's CPU size: an arm and a seed, from the bundled teacher.

    python from_teacher.py SCRATCH ARM SEED

Nothing is trained from scratch: the teacher's full heads are given away, with a short repair each.
Results go to SCRATCH/result_ARM_SEED.json after every plan; the same command makes what is missing.
"""

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from arms import teacher_plan
from train import Run

from hydrahead.kernels.backend import backends_used
from hydrahead.model.families.falcon_h1_start import start_mamba_heads_
from hydrahead.model.loading import load_model
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.scores import HeadScores
from hydrahead.recipes.demo import SMALL_TEACHER
from hydrahead.training.data.builtin import builtin_texts

_TELLING = ((0.25, "score"), (0.0, "score"), (0.125, "score"), (0.0625, "score"))
FRACTIONS = {
    "attention": (*_TELLING, (0.25, "random"), (1.0, "score"), (0.5, "score")),
    "parallel": _TELLING,
    "gated_delta": _TELLING[:2],
}
"""full_fraction and what chooses the heads, by arm; 1.0 is the teacher, repaired like the rest."""
FRESH, FRESH_RATE = (".parallel.", ".gates.", ".conv.", ".fusion."), 8.0
"""Parts of the names of what the teacher lacks, and how much faster it learns in a repair."""


class TeacherRun(Run):
    """A run that gives the teacher's full heads away."""

    probe_pairs = 8

    def rates(self, model: HydraForCausalLM) -> dict[str, float]:
        """What the teacher lacks learns faster."""
        names = [name for name, _ in model.named_parameters()]
        return {name: FRESH_RATE for name in names if any(part in name for part in FRESH)}

    def execute(self) -> None:
        """Every plan of the arm that an earlier call did not come to."""
        before = self.scratch / f"result_{self.arm}_{self.seed}.json"
        if before.exists():
            self.result = json.loads(before.read_text())
        made = {(row["full_fraction"], row["chosen_by"]) for row in self.result["sweep"]}
        missing = [asked for asked in FRACTIONS[self.arm] if asked not in made]
        if missing:
            teacher = load_model(SMALL_TEACHER, device=self.device)
            if "tested" not in self.result:
                self.result["tested"] = self.test(teacher, self.extent.eval_lengths)
                self.save()
            scores = self.score(teacher)
        for fraction, chosen in missing:
            self.result["sweep"].append(self.one(scores, fraction, chosen))
            self.result["backends"] = backends_used()
            self.save()
        self.result["finished"] = True
        self.save()

    def one(self, scores: HeadScores, fraction: float, chosen: str) -> dict[str, Any]:
        """One plan: measured, repaired, measured again."""
        gated = self.arm == "gated_delta"
        torch.manual_seed(1000 + self.seed)
        other = "gated_delta" if gated else self.window
        plan = teacher_plan(self.arm, self.plan(scores, fraction, chosen, other))
        text = self._calibration() if gated else None
        hybrid = self.hybrid(SMALL_TEACHER, plan, chosen, calibrate=text)
        start_mamba_heads_(hybrid, "steps")
        found: dict[str, Any] = {}
        if self.arm != "parallel":
            # Mamba-2 heads beside a teacher start with an output of zero: as "attention" is.
            found["before_repair"] = self.test(hybrid, self.extent.eval_lengths[:2])
        return found | self.repair(hybrid, plan, chosen)

    def _calibration(self) -> Path:
        """Text that the fusion scalars of gated_delta are measured on."""
        path = self.scratch / f"calibration_{self.arm}_{self.seed}.txt"
        path.write_text("\n".join(islice(builtin_texts(), 40)), encoding="utf-8")
        return path


if __name__ == "__main__":
    TeacherRun(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])).execute()
