"""The demo: does scoring the heads pay? On the bundled teacher, with nothing precomputed.

One plan keeps the heads that score best; the control keeps as many chosen by chance: the median of
five random plans, ranked by how far the teacher with the aligned twins in place drifts from itself
on recall questions. Both go through the same repair and are asked the same questions, at equal
bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from hydrahead.core.artefacts import open_artefact
from hydrahead.core.jsonio import read_json, write_json
from hydrahead.core.progress import Progress
from hydrahead.core.seeds import derive_seed
from hydrahead.evaluation.report import write_report
from hydrahead.evaluation.results import EvaluationResults
from hydrahead.model.generation import generate_text
from hydrahead.model.loading import load_model, load_tokenizer
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.pipeline.conversion import ConversionRun, Workbench
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.scores import random_scores
from hydrahead.tasks import build_task, codec_from_tokenizer
from hydrahead.tasks.sample import Sample

DAMAGES = "damages.json"


class DemoRun(ConversionRun):
    """A conversion with a control arm: the same budget, spent on heads chosen by chance."""

    random_plans: int = Field(default=5, ge=1)
    ranking_samples: int = Field(default=16, ge=1)
    ranking_length: int = 256

    def execute(self, out: Path, *, force: bool = False) -> Path:
        """Run both arms; writes report.html and summary.json and returns the report's path."""
        bench = Workbench(self, out, force=force)
        scores = bench.scores()
        plan = bench.plan("scored", scores)
        scored = bench.repaired("scored", bench.converted("scored", plan))
        control = bench.repaired("random", self._median_random_hybrid(bench, out, force=force))
        evaluation = bench.evaluate([bench.teacher, scored, control])
        report = write_report([evaluation, scores], out / "report.html")
        write_json(out / "summary.json", self._summary(evaluation, scored))
        return report

    def _median_random_hybrid(self, bench: Workbench, out: Path, *, force: bool) -> Path:
        """The hybrid whose damage, before any repair, is the median of the random ones."""
        geometry = ModelGeometry.from_pretrained(bench.teacher)
        hybrids: dict[str, Path] = {}
        for number in range(self.random_plans):
            name = f"random_{number}"
            seed = derive_seed(self.seed, name)
            scores = random_scores(geometry, seed)
            plan = bench.write_plan(name, scores, parents={"scores": f"random, seed {seed}"})
            hybrids[name] = bench.converted(name, plan)
        damages = self._damages(bench.teacher, hybrids, out / "ranking", force=force)
        by_damage = sorted(hybrids, key=lambda name: damages[name])
        return hybrids[by_damage[len(by_damage) // 2]]

    def _damages(
        self, teacher: Path, hybrids: Mapping[str, Path], out: Path, *, force: bool
    ) -> dict[str, float]:
        """KL(teacher || hybrid) in nats, mean over the answer tokens of recall questions.

        An artefact: what was measured on these hybrids with these questions is not measured again.
        """
        questions = {
            "task": self.evaluation.tasks[-1],
            "length": self.ranking_length,
            "samples": self.ranking_samples,
        }
        with open_artefact(
            out,
            kind="ranking",
            configuration={**questions, "dtype": self.dtype},
            parents={"teacher": teacher, **hybrids},
            seed=self.seed,
            force=force,
        ) as work:
            if not work.reused:
                write_json(work.directory / DAMAGES, self._measured(teacher, hybrids))
        return read_json(out / DAMAGES)

    def _measured(self, teacher: Path, hybrids: Mapping[str, Path]) -> dict[str, float]:
        """The damage of every hybrid."""
        samples = self._questions(teacher)
        there = {"dtype": self.dtype, "device": self.device}
        reference = load_model(teacher, **there)
        with Progress() as progress:
            return {
                name: answer_divergence(reference, load_model(hybrid, **there), samples)
                for name, hybrid in progress.track(
                    hybrids.items(), total=len(hybrids), label="rank random plans"
                )
            }

    def _questions(self, teacher: Path) -> list[Sample]:
        """What the random plans are ranked on."""
        codec = codec_from_tokenizer(load_tokenizer(teacher))
        task = build_task(self.evaluation.tasks[-1])
        return [
            task.sample(codec, length=self.ranking_length, seed=self.seed, index=index)
            for index in range(self.ranking_samples)
        ]

    def _summary(self, evaluation: Path, model: Path) -> dict[str, Any]:
        results = EvaluationResults.model_validate(read_json(evaluation / "results.json"))
        arms = {result.name: Recall.of(result) for result in results.models}
        teacher, scored, control = arms.values()
        tokenizer = load_tokenizer(model)
        codec = codec_from_tokenizer(tokenizer)
        sample = build_task(self.evaluation.tasks[0]).sample(
            codec, length=max(self.evaluation.lengths), seed=self.seed, index=0
        )
        answer = generate_text(
            model,
            codec.decode(sample.prompt_ids),
            max_new_tokens=len(sample.answer_ids),
        )
        difference = scored.mean - control.mean
        error = (scored.error**2 + control.error**2) ** 0.5
        return {
            "recall": {
                name: {"mean": arm.mean, "standard_error": arm.error, "n": arm.n}
                for name, arm in arms.items()
            },
            "teacher_recall": teacher.mean,
            "scored_minus_random": difference,
            "standard_errors": difference / error if error else None,
            "question": codec.decode(sample.prompt_ids)[-160:],
            "expected": codec.decode(sample.answer_ids),
            "generated": answer.text,
        }


def summary_outcome(out: Path) -> tuple[dict[str, Any], list[str]]:
    """The demo's summary as data and as lines for people."""
    summary = read_json(out / "summary.json")
    lines = [
        f"recall of {name}: {arm['mean']:.1%} +- {arm['standard_error']:.1%} (n = {arm['n']})"
        for name, arm in summary["recall"].items()
    ]
    errors = summary["standard_errors"]
    lines.append(
        f"scored - random: {summary['scored_minus_random']:+.1%}"
        + ("" if errors is None else f", {errors:.1f} standard errors")
    )
    lines.append(f"...{summary['question'][-60:]}")
    lines.append(f"expected{summary['expected']}, the scored hybrid says{summary['generated']}")
    return summary, lines


@dataclass(frozen=True, slots=True)
class Recall:
    """Share of questions answered, over all tasks and lengths."""

    mean: float
    error: float
    n: int

    @classmethod
    def of(cls, result: Any) -> "Recall":
        """From one model's evaluation."""
        scores = [score for cell in result.cells for score in cell.scores]
        n = len(scores)
        mean = sum(scores) / n
        variance = sum((score - mean) ** 2 for score in scores) / max(1, n - 1)
        return cls(mean, (variance / n) ** 0.5, n)


@torch.no_grad()
def answer_divergence(
    teacher: HydraForCausalLM, hybrid: HydraForCausalLM, samples: Sequence[Sample]
) -> float:
    """KL(teacher || hybrid) in nats at the positions that predict answers, mean over tokens."""
    total, count = 0.0, 0
    for sample in samples:
        ids = torch.tensor([sample.prompt_ids + sample.answer_ids], device=teacher.device)
        rows = len(sample.answer_ids)
        wanted, given = (
            model(input_ids=ids, logits_to_keep=rows + 1, use_cache=False)
            .logits[0, :-1]
            .float()
            .log_softmax(-1)
            for model in (teacher, hybrid)
        )
        total += float((wanted.exp() * (wanted - given)).sum())
        count += rows
    return total / count
