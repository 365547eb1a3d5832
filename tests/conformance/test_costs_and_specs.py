"""Law 7: states hold the bytes the plan's cost model says. Law 11: spec -> JSON -> spec."""

import json

import pytest
import torch

from hydrahead.model.cache import HydraCache
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.table import spec_from_dict, spec_to_dict
from tiny_hybrids import PLANS, SPECS, tiny_hybrid, tokens


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_states_cost_what_the_plan_says(name: str) -> None:
    """Below the sinks, below the window, beyond both, and with storage allocated for more."""
    plan, batch = PLANS[name], 2
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_hybrid(plan, dtype=dtype)
        for capacity in (None, 40):
            cache, seen = HydraCache(capacity), 0
            for size in (2, 1, 9, 1, 20):
                model(tokens(batch, size), past_key_values=cache)
                seen += size
                cost = plan.cost(seen, batch, kv_dtype=str(dtype).removeprefix("torch."))
                assert cache.nbytes() == cost.total_bytes, (seen, capacity)


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_survives_json(name: str) -> None:
    spec = SPECS[name]
    text = json.dumps(spec_to_dict(spec))
    assert spec_from_dict(json.loads(text)) == spec


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_survives_json(name: str) -> None:
    assert HeadPlan.from_json(PLANS[name].to_json()) == PLANS[name]
