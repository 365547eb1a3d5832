"""The verb: the blend between its two ends, what is written, resumption, ranks, and refusals."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distill_cases import write_text
from torch import distributed, multiprocessing

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.progress import Progress
from hydrahead.model.families.teacher import open_teacher
from hydrahead.model.loading import load_model, load_tokenizer
from hydrahead.plan import HeadPlan, HeadScores, ModelGeometry
from hydrahead.plan.files import read_plan
from hydrahead.plan.specs.window import WindowSpec
from hydrahead.training.batch import Batch
from hydrahead.training.data.packing import PackedBatches
from hydrahead.training.data.sources import build_source
from hydrahead.training.interrupts import TrainingInterrupted
from hydrahead.training.loop import train
from hydrahead.training.objectives import NextToken, final_hidden
from hydrahead.transfer.allocation import AllocateConfig, allocate
from hydrahead.transfer.allocation.blend import make_blend
from hydrahead.transfer.allocation.l0_gates import L0Gates
from hydrahead.transfer.allocation.objective import (
    AllocationObjective,
    AnswerLoss,
    NextTokenLoss,
)
from hydrahead.transfer.allocation.optimiser import GateOptimiser
from hydrahead.transfer.allocation.pair import parse_pair
from hydrahead.transfer.convert import convert
from hydrahead.transfer.distill import distill
from hydrahead.transfer.twins import Twins
from tiny_teachers import save_teacher

WINDOW = "full:window:window=5,sinks=1"
SHORT: dict[str, Any] = {
    "steps": 8,
    "batch_size": 2,
    "length": 32,
    "checkpoint_every": 2,
    "log_every": 2,
    "gate_lr": 1.0,
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, text, and twins with random parameters of their own."""
    root = tmp_path_factory.mktemp("allocate")
    save_teacher(root / "teacher", "qwen3", "tied")
    save_teacher(root / "falcon", "falcon_h1", "tied")
    write_text(root / "text.txt", words=1500)
    geometry = ModelGeometry.from_pretrained(root / "teacher")
    linear = parse_pair("full:gated_delta", length=32).replacement
    convert(root / "teacher", HeadPlan.uniform(geometry, linear), root / "start")
    settings = {"steps": 2, "batch_size": 2, "accumulation": 1, "length": 32, "lr": 1e-2}
    distill(
        root / "start",
        teacher=root / "teacher",
        data=root / "text.txt",
        out=root / "twins",
        stages=["align"],
        config=distill_config(align_target="heads", train={"align": settings}),
        progress=Progress(silent=True),
    )
    return root


def distill_config(**fields: Any) -> Any:
    from hydrahead.transfer.stage_base import DistillConfig

    return DistillConfig(**fields)


def learn(here: Path, out: Path, *, config: dict[str, Any] | None = None, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "data": here / "text.txt",
        "full_fraction": 0.5,
        "pair": WINDOW,
        "progress": Progress(silent=True),
    }
    return allocate(
        here / "teacher",
        out=out,
        config=AllocateConfig(**{**SHORT, **(config or {})}),
        **{**arguments, **changes},
    )


def batch(rows: int = 2, tokens: int = 23) -> Batch:
    """Two documents in each row."""
    ids = torch.randint(3, 67, (rows, tokens), generator=torch.Generator().manual_seed(0))
    positions = torch.cat((torch.arange(9), torch.arange(tokens - 9))).expand(rows, -1)
    return Batch(input_ids=ids, labels=ids.roll(-1, 1), position_ids=positions)


def blend_of(here: Path, pair: str) -> Any:
    twins = Twins(here / "twins") if "gated" in pair else None
    model = load_model(here / "teacher")
    chosen = parse_pair(pair, length=32)
    return make_blend(model, open_teacher(here / "teacher"), chosen, twins=twins, seed=0)


PAIRS = [
    WINDOW,
    "full:gated_delta",
    "window:window=5:gated_delta",
    "full:window:window=5,qk_norm=false",
]


@pytest.mark.parametrize("pair", PAIRS)
def test_gates_of_zero_and_one_are_the_plan_they_round_to(
    here: Path, tmp_path: Path, pair: str
) -> None:
    chosen = parse_pair(pair, length=32)
    geometry = ModelGeometry.from_pretrained(here / "teacher")
    gates = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    kept = {(layer, unit): chosen.kept for layer, unit in gates.nonzero().tolist()}
    plan = HeadPlan.uniform(geometry, chosen.replacement).replace(kept)
    twins = here / "twins" if "gated" in pair else None
    hybrid = load_model(convert(here / "teacher", plan, tmp_path / "hybrid", twins=twins))
    blend = blend_of(here, pair)
    with torch.no_grad():
        expected = final_hidden(hybrid, batch())
        with blend.gated(gates):
            given = final_hidden(blend.model, batch())
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


def test_parallel_mixers_and_multipliers_stay_in_a_blend(here: Path, tmp_path: Path) -> None:
    """Falcon-H1: window heads beside its Mamba-2 heads, whose part no gate changes."""
    chosen = parse_pair(WINDOW, length=32)
    geometry = ModelGeometry.from_pretrained(here / "falcon")
    gates = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    plan = HeadPlan.uniform(geometry, chosen.replacement).replace(
        {(layer, unit): chosen.kept for layer, unit in gates.nonzero().tolist()}
    )
    hybrid = load_model(convert(here / "falcon", plan, tmp_path / "hybrid"))
    model = load_model(here / "falcon")
    before = sum(p.numel() for p in model.parameters())
    blend = make_blend(model, open_teacher(here / "falcon"), chosen, twins=None, seed=0)
    assert sum(p.numel() for p in model.parameters()) == before, "nothing is held twice"
    with torch.no_grad():
        expected = final_hidden(hybrid, batch())
        with blend.gated(gates):
            given = final_hidden(blend.model, batch())
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


def test_a_falcon_h1_is_allocated_and_converted(here: Path, tmp_path: Path) -> None:
    out = allocate(
        here / "falcon",
        data=here / "text.txt",
        out=tmp_path / "gates",
        full_fraction=0.5,
        pair=WINDOW,
        config=AllocateConfig(**SHORT),
        progress=Progress(silent=True),
    )
    plan = read_plan(out / "plan.json")
    assert plan.full_fraction == 0.5
    assert all(len(layer.parallel) == 1 for layer in plan.layers)
    model = load_model(convert(here / "falcon", plan, tmp_path / "hybrid"))
    assert model(torch.arange(3, 40)[None]).logits.isfinite().all()


def test_half_open_gates_mix_the_heads_before_the_output_projection(here: Path) -> None:
    blend = blend_of(here, "full:gated_delta")
    attention = blend.model.model.layers[0].self_attn
    seen: dict[str, torch.Tensor] = {}
    attention.heads_tap.register_forward_hook(lambda m, i, o: seen.update(mixed=o))
    for name in ("kept", "replacement"):
        side = getattr(attention, name)
        original = side.fused_heads

        def recorded(*args: Any, original: Any = original, name: str = name) -> torch.Tensor:
            seen[name] = original(*args)
            return seen[name]

        side.fused_heads = recorded
    with torch.no_grad(), blend.gated(torch.full((3, 2), 0.25)):
        final_hidden(blend.model, batch())
    assert attention.replacement.fusion is not None
    expected = 0.25 * seen["kept"] + 0.75 * seen["replacement"]
    torch.testing.assert_close(seen["mixed"], expected)
    assert not torch.allclose(seen["kept"], seen["replacement"], atol=1e-3)


def test_softmax_mixers_share_their_projections_and_linear_ones_do_not(here: Path) -> None:
    for pair, shared in ((WINDOW, True), ("full:gated_delta", False)):
        attention = blend_of(here, pair).model.model.layers[1].self_attn
        sides = attention.kept.mixers[0], attention.replacement.mixers[0]
        assert (sides[0].projections is sides[1].projections) is shared


def test_releasing_a_blend_leaves_the_teacher(here: Path) -> None:
    blend = blend_of(here, WINDOW)
    model, _ = blend.release()
    with torch.no_grad():
        expected = final_hidden(load_model(here / "teacher"), batch())
        assert torch.equal(final_hidden(model, batch()), expected)


def test_gate_gradients_are_those_of_finite_differences(here: Path) -> None:
    blend = blend_of(here, WINDOW)
    blend.model.double().requires_grad_(False)
    task = NextTokenLoss(blend.model)
    config = AllocateConfig(**SHORT)
    gates = L0Gates((3, 2), scope="global", full_fraction=0.5, config=config).double()
    with torch.no_grad():
        gates.log_odds.copy_(torch.linspace(-1, 1, 6).view(3, 2))
        gates.constraint.linear.fill_(0.7)
        gates.constraint.quadratic.fill_(2.0)
    objective = AllocationObjective(blend, gates, task)
    objective.backward(batch())
    found = gates.log_odds.grad.clone()
    step = 1e-5
    for place in ((0, 0), (2, 1), (1, 0)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                gates.log_odds[place] += sign * step
                values.append(objective(batch()).loss.item())
                gates.log_odds[place] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert found[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_the_answer_loss_is_zero_with_every_gate_open_and_not_otherwise(here: Path) -> None:
    blend = blend_of(here, WINDOW)
    task = AnswerLoss(blend, (3, 2))
    config = AllocateConfig(**SHORT, gates="l1")
    from hydrahead.transfer.allocation.l1_gates import L1Gates

    gates = L1Gates((3, 2), scope="global", full_fraction=0.5, config=config)
    objective = AllocationObjective(blend, gates, task)
    with torch.no_grad():
        assert objective(batch()).sums["task"].item() == 0
        gates.gate.fill_(0.0)
        assert objective(batch()).sums["task"].item() > 0.01


def test_recomputed_activations_change_nothing(here: Path, tmp_path: Path) -> None:
    plain = learn(here, tmp_path / "plain", config={"steps": 2})
    again = learn(here, tmp_path / "again", config={"steps": 2, "activation_checkpointing": True})
    first, second = (np.load(out / "gates.npz")["gates"] for out in (plain, again))
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_it_writes_scores_a_plan_and_histories(here: Path, tmp_path: Path) -> None:
    out = learn(here, tmp_path / "out")
    plan = read_plan(out / "plan.json")
    assert plan.num_full_units == 3
    assert {spec.name for spec in plan.distinct_specs()} == {"full", "window"}
    scores = HeadScores.load(out)
    history = np.load(out / "gates.npz")
    assert history["gates"].shape == (9, 3, 2)
    assert history["multipliers"].shape == (9, 2)
    np.testing.assert_array_equal(scores.kv_head_values(), history["gates"][-1])
    assert (history["gates"][0] == 5).all()
    kept = {(layer, unit) for layer, unit, spec in plan.free_units() if spec.name == "full"}
    best = np.argsort(-history["gates"][-1].ravel(), kind="stable")[:3]
    assert kept == {(int(i) // 2, int(i) % 2) for i in best}
    summary = json.loads((out / "allocation.json").read_text())
    assert summary["full_fraction"] == summary["target_full_fraction"] == 0.5
    assert summary["gap"] == pytest.approx(summary["expected_full_fraction"] - 0.5)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert {"expected", "realised", "wanted", "task", "penalty"} <= lines[0].keys()
    assert not (out / "model").exists()


def test_the_weights_do_not_move_unless_asked(here: Path, tmp_path: Path) -> None:
    blend = blend_of(here, WINDOW)
    before = {n: p.clone() for n, p in blend.model.named_parameters()}
    blend.model.requires_grad_(False)
    config = AllocateConfig(**SHORT)
    gates = L0Gates((3, 2), scope="global", full_fraction=0.5, config=config)
    run_training(here, blend, gates, config, tmp_path)
    assert all(torch.equal(before[n], p) for n, p in blend.model.named_parameters())
    assert not torch.equal(gates.openness, torch.full((3, 2), 5.0))


def run_training(
    here: Path, blend: Any, gates: Any, config: AllocateConfig, folder: Path, skip: int = 0
) -> None:
    source = build_source(
        str(here / "text.txt"), load_tokenizer(here / "teacher"), length=32, seed=1
    )
    batches = PackedBatches(source, batch_size=config.batch_size, length=config.length, seed=1)
    shared: Any = _EveryOther(batches, skip) if skip else batches
    train(
        blend.model,
        AllocationObjective(blend, gates, NextTokenLoss(blend.model)),
        shared,
        config.training(),
        folder,
        optimiser=GateOptimiser(gates, num_steps=config.steps, weights=None),
    )


@pytest.mark.parametrize("pair", ["full:window:window=5", "full:gated_delta"])
def test_trained_weights_are_written_and_convert_with_the_plan(
    here: Path, tmp_path: Path, pair: str
) -> None:
    twins = here / "twins" if "gated" in pair else None
    out = learn(
        here,
        tmp_path / "out",
        pair=pair,
        twins=twins,
        config={"train_weights": True, "weights_lr": 1e-3},
    )
    model = load_model(out / "model")
    teacher = load_model(here / "teacher")
    moved = [
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, teacher.get_parameter(name))
    ]
    assert any("q.weight" in name for name in moved)
    assert any("mlp" in name for name in moved)
    own = out / "twins" if twins else None
    hybrid = load_model(convert(out / "model", out / "plan.json", tmp_path / "hybrid", twins=own))
    assert hybrid.config.head_plan.num_full_units == 3
    # the converted hybrid is the blend at the plan's gates, not the teacher's
    with torch.no_grad():
        before = float(NextToken(teacher)(batch()).loss)
        assert float(NextToken(hybrid)(batch()).loss) != pytest.approx(before, rel=1e-4)


def test_a_fp32_gate_of_a_trained_twin_stays_fp32(here: Path, tmp_path: Path) -> None:
    out = learn(
        here,
        tmp_path / "out",
        pair="full:gated_delta",
        twins=here / "twins",
        config={"train_weights": True, "steps": 1},
    )
    twins = load_model(out / "twins", dtype="auto")
    assert {p.dtype for n, p in twins.named_parameters() if ".gates." in n} == {torch.float32}


class _Stop(Progress):
    """Asks to stop after some steps, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        super().__init__(silent=True)
        self._after = after

    def show(self, task: Any) -> None:
        if task.done == self._after:
            os.kill(os.getpid(), 2)


@pytest.mark.parametrize("train_weights", [False, True])
def test_an_interrupted_run_ends_with_the_same_bits(
    here: Path, tmp_path: Path, train_weights: bool
) -> None:
    config = {"train_weights": train_weights, "initial_log_odds": 1.0}
    whole = learn(here, tmp_path / "whole", config=config)
    with pytest.raises(TrainingInterrupted, match="after step 3 of 8"):
        learn(here, tmp_path / "parts", config=config, progress=_Stop(3))
    assert not (tmp_path / "parts").exists()
    parts = learn(here, tmp_path / "parts", config=config)
    names = [p.relative_to(whole) for p in whole.rglob("*") if p.suffix in {".npz", ".safetensors"}]
    assert len(names) == (3 if train_weights else 2)
    for name in names:
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


class _EveryOther:
    """The batches of one of two ranks."""

    def __init__(self, batches: PackedBatches, rank: int) -> None:
        self._batches = batches
        self._rank = rank - 1

    def state_dict(self) -> Any:
        return self._batches.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._batches.load_state_dict(state)

    def __iter__(self) -> Iterator[Batch]:
        for number, drawn in enumerate(self._batches):
            if number % 2 == self._rank:
                yield drawn


def _rank(rank: int, here: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    config = AllocateConfig(**SHORT, initial_log_odds=1.0)
    gates = learned(here, config, folder / str(rank), skip=rank + 1)
    np.save(folder / f"gates{rank}.npy", gates.openness.numpy())
    distributed.destroy_process_group()


def learned(here: Path, config: AllocateConfig, folder: Path, skip: int = 0) -> L0Gates:
    blend = blend_of(here, WINDOW)
    blend.model.requires_grad_(False)
    gates = L0Gates((3, 2), scope="layer", full_fraction=0.5, config=config)
    run_training(here, blend, gates, config, folder, skip)
    return gates


def test_two_ranks_learn_what_one_process_learns(here: Path, tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, args=(here, tmp_path), nprocs=2)
    first, second = (np.load(tmp_path / f"gates{rank}.npy") for rank in (0, 1))
    np.testing.assert_array_equal(first, second)
    config = AllocateConfig(**SHORT, initial_log_odds=1.0, accumulation=2)
    alone = learned(here, config, tmp_path / "alone").openness.numpy()
    np.testing.assert_allclose(first, alone, atol=2e-4)
    assert np.abs(alone - 1).max() > 0.5


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fraction": ({"full_fraction": 1.5}, "between 0 and 1"),
    "scope": ({"scope": "everywhere"}, "unknown scope"),
    "mixer": ({"pair": "full:windw"}, "did you mean 'window'"),
    "setting": ({"pair": "full:window:windw=3"}, "did you mean 'window'"),
    "one mixer": ({"pair": "full"}, "not a pair"),
    "three": ({"pair": "full:window:lightning"}, "not a pair"),
    "the same": ({"pair": "full:full"}, "are the same"),
    "full twice": ({"pair": "window:window=4:full"}, "cannot replace full attention"),
    "window": ({"pair": "full:window:window=32"}, "training row of 32"),
    "context": (
        {"pair": "full:window:window=900", "config": {"length": 256}},
        "the teacher's context 256",
    ),
    "row": ({"config": {"length": 512}}, "longer than the model's context of 256"),
    "no twins": ({"pair": "full:gated_delta"}, "--twins DIR"),
    "linear first": ({"pair": "gated_delta:window:window=5"}, "--twins DIR"),
    "missing twins": ({"pair": "full:gated_delta", "twins": Path("nowhere")}, "nowhere"),
    "needless twins": ({"twins": Path("twins")}, "takes no twins"),
    "other twins": ({"pair": "full:lightning", "twins": Path("twins")}, "twins"),
    "gates": ({"config": {"gates": "hard_concret"}}, "did you mean 'hard_concrete'"),
    "data": ({"data": "nothing.txt"}, "no such file"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_and_leaves_nothing(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(here)
    changes, words = REFUSED[what]
    with pytest.raises(HydraHeadError, match=words):
        learn(here, tmp_path / "out", **changes)
    assert not list(tmp_path.iterdir())


def test_a_mixer_with_heads_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WindowSpec, "takes_slots", False)
    with pytest.raises(HydraHeadError, match="cannot start from the teacher"):
        parse_pair("full:window:window=5", length=32)


def test_a_hybrid_is_no_teacher(here: Path, tmp_path: Path) -> None:
    with pytest.raises(HydraHeadError, match="not a teacher"):
        allocate(
            here / "start",
            data=here / "text.txt",
            out=tmp_path / "out",
            full_fraction=0.5,
            pair=WINDOW,
            config=AllocateConfig(**SHORT),
        )


def test_a_window_nobody_gave_is_an_eighth_of_a_row_and_is_recorded(
    here: Path, tmp_path: Path
) -> None:
    out = learn(here, tmp_path / "out", pair="full:window", config={"steps": 1})
    summary = json.loads((out / "allocation.json").read_text())
    assert summary["pair"]["replacement"]["window"] == 4


def test_a_finished_allocation_is_reused_and_another_one_refused(
    here: Path, tmp_path: Path
) -> None:
    out = learn(here, tmp_path / "out", config={"steps": 1})
    made = (out / "artifact.json").stat().st_mtime_ns
    learn(here, out, config={"steps": 1})
    assert (out / "artifact.json").stat().st_mtime_ns == made
    with pytest.raises(HydraHeadError, match=r"full_fraction was 0\.5, now 0\.4"):
        learn(here, out, config={"steps": 1}, full_fraction=0.4)
