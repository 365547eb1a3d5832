"""What may carry an adapter: everything linear but what Falcon-H1's kernels read directly."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn
from transformers.integrations import PeftAdapterMixin

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.adapters import adaptable_modules, require_adaptable, skipped_modules
from tiny_hybrids import PLANS, tiny_hybrid

MODEL = tiny_hybrid(PLANS["mamba2-1-everywhere"])


def test_every_linear_map_is_on_one_side() -> None:
    linear = {name for name, module in MODEL.named_modules() if isinstance(module, nn.Linear)}
    good, bad = set(adaptable_modules(MODEL)), set(skipped_modules(MODEL))
    assert not good & bad
    assert linear == good | (bad & linear)
    assert "model.layers.0.self_attn.parallel.0.in_proj" in good
    assert "model.layers.1.self_attn.o_proj" in good
    layers = [f"model.layers.{layer}.self_attn.parallel.0" for layer in (0, 1)]
    assert bad == {"lm_head", *(f"{at}.{kind}" for at in layers for kind in ("conv", "out_proj"))}


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("out_proj", "fused kernel"),
        ("parallel.0.out_proj", "fused kernel"),
        ("conv", "[channels, 1, taps]"),
        ("in_prj", "did you mean 'in_proj'"),
    ],
)
def test_targets_that_would_go_wrong_are_refused(target: str, told: str) -> None:
    with pytest.raises(HydraHeadError) as caught:
        require_adaptable(MODEL, ["in_proj", "q", target])
    assert told in str(caught.value)


def test_good_targets_pass() -> None:
    require_adaptable(MODEL, ["in_proj", "q", "k", "v", "o_proj", "gate_proj"])
    require_adaptable(MODEL, adaptable_modules(MODEL))
    require_adaptable(tiny_hybrid(PLANS["gated_delta-0-everywhere"]), ["o_proj"])


@pytest.mark.parametrize(
    "targets", [["q", "out_proj"], "all-linear", r".*\.parallel\.0\..*_proj", {"conv"}]
)
def test_adding_an_adapter_refuses_them(targets: Any) -> None:
    with pytest.raises(HydraHeadError, match="must be left alone"):
        MODEL.add_adapter(SimpleNamespace(target_modules=targets))


def test_adding_an_adapter_elsewhere_is_transformers_business(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    added: list[Any] = []
    monkeypatch.setattr(PeftAdapterMixin, "add_adapter", lambda _, *given: added.append(given))
    adapter = SimpleNamespace(target_modules=list(adaptable_modules(MODEL)))
    MODEL.add_adapter(adapter, "mine")
    assert added == [(adapter, "mine")]
