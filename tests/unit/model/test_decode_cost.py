"""What a layer does for one decoded token, in tensor calls: on a GPU each is a kernel launch.

At one token nothing is bound by memory or arithmetic: time is launches, and waiting for the device.
So the calls per layer are counted here, and whatever would make the host wait is refused. fla's
kernels are one call each (their adapters are counted), and so is `rms_norm`, which is one on a GPU.
"""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hydrahead.kernels.backend import FASTS, resolve
from hydrahead.kernels.kernel import Kernel
from hydrahead.model.cache import HydraCache
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan, LayerPlan
from hydrahead.plan.presets import preset_specs
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.lightning import LightningSpec
from hydrahead.plan.specs.mamba2 import Mamba2Spec
from hydrahead.plan.specs.window import WindowSpec
from tiny_hybrids import beside, tiny_hybrid
from unit.kernels import fake_fla

GEOMETRY = ModelGeometry(
    family="qwen3",
    num_layers=3,
    num_q_heads=8,
    num_kv_heads=4,
    head_dim=8,
    hidden_size=32,
    intermediate_size=40,
    vocab_size=61,
    max_positions=256,
    layer_windows=(None, None, None),
    tie_word_embeddings=True,
)


def _one_in_four(full: Any, other: Any) -> HeadPlan:
    """One kv_head full, between others, so that heads have to go back to their slots."""
    layer = LayerPlan(units=(other, other, full, other))
    return HeadPlan(geometry=GEOMETRY, unit="kv_head", layers=(layer,) * GEOMETRY.num_layers)


CASES: dict[str, tuple[HeadPlan, int]] = {
    "full": (HeadPlan.all_full(GEOMETRY), 22),
    "full and gated_delta": (_one_in_four(*preset_specs("plain", GatedDeltaSpec())), 56),
    "full and gated_delta, paper": (_one_in_four(*preset_specs("paper", GatedDeltaSpec())), 62),
    "gated_delta": (HeadPlan.uniform(GEOMETRY, GatedDeltaSpec()), 42),
    "lightning": (HeadPlan.uniform(GEOMETRY, LightningSpec()), 27),
    "full and window": (_one_in_four(FullSpec(), WindowSpec(window=8, sinks=2)), 35),
    "own window": (HeadPlan.uniform(GEOMETRY, WindowSpec(window=8, sinks=0)), 22),
    "full beside mamba2": (
        beside(HeadPlan.all_full(GEOMETRY), Mamba2Spec(heads=4, head_dim=8, state_size=5)),
        45,
    ),
}
"""Plan, and tensor calls of one of its layers for one token."""
OUTSIDE = 20
"""Tensor calls before and behind the layers, and what is found once for all of them."""
FREE = {"empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view"}
"""They launch nothing, like views."""
WAITING_OPS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique2"}
WAITING_METHODS = {
    getattr(Tensor, name)
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")
}


class Calls(TorchDispatchMode):
    """Counts what would be launched; refuses what makes the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()
        self.inside_one = False

    @property
    def total(self) -> int:
        return self.counted.total()

    def as_one(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.counted[name] += 1
        self.inside_one = True
        try:
            return function(*args, **kwargs)
        finally:
            self.inside_one = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside_one:
            name = func._schema.name.removeprefix("aten::")
            indices = args[1] if name == "index" else []
            boolean = any(x is not None and x.dtype == torch.bool for x in indices)
            assert name not in WAITING_OPS, f"{name} waits for the device"
            assert not boolean, "indexing by a mask waits for the device"
            is_view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
            if not is_view and name not in FREE:
                self.counted[name] += 1
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """What `Calls` cannot see from below: functions that are one launch, methods that wait."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.calls.inside_one:
            assert func not in WAITING_METHODS, f"{func.__name__} waits for the device"
            if func is functional.rms_norm:
                return self.calls.as_one("rms_norm", func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A counter, with the fast kernels in use and each call into fla counted as one."""
    counter = Calls()
    fake_fla.install(monkeypatch)

    def fast(op: str, *where: Any, **settings: Any) -> Kernel:
        return FASTS.load(op) if op in FASTS else resolve(op, *where, **settings)

    monkeypatch.setattr("hydrahead.mixers.linear_base.resolve", fast)
    for module, name in (
        ("fla.ops.gated_delta_rule", "fused_recurrent_gated_delta_rule"),
        ("fla.ops.simple_gla", "fused_recurrent_simple_gla"),
    ):
        real = getattr(sys.modules[module], name)

        def one(*, _real: Any = real, _name: str = name, **settings: Any) -> Any:
            return counter.as_one(_name, _real, **settings)

        monkeypatch.setattr(sys.modules[module], name, one)
    return counter


@pytest.mark.parametrize("capacity", [None, 40], ids=["growing", "static"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_decoded_token_stays_cheap(name: str, capacity: int | None, calls: Calls) -> None:
    plan, bound = CASES[name]
    model = tiny_hybrid(plan, dtype=torch.float32, attention_bias=False).bfloat16()
    cache = HydraCache(capacity)
    ids = torch.randint(3, GEOMETRY.vocab_size, (1, 30))
    model(ids[:, :28], past_key_values=cache, use_cache=True)
    for place in (28, 29):  # The second time nothing is made for the first time.
        calls.counted.clear()
        with calls, Functions(calls):
            model(ids[:, place : place + 1], past_key_values=cache, use_cache=True)
    assert calls.total <= OUTSIDE + GEOMETRY.num_layers * bound, calls.counted


def test_the_counter_refuses_to_wait(calls: Calls) -> None:
    x = torch.arange(4.0)
    for wait in (
        lambda: x.sum().item(),
        lambda: x.tolist(),
        lambda: bool(x[0] > 0),
        lambda: x[x > 1],
        lambda: x.nonzero(),
        lambda: torch.equal(x, x),
    ):
        with pytest.raises(AssertionError, match="waits for the device"), calls, Functions(calls):
            wait()
