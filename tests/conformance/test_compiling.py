"""Law 12: no graph break when compiled. Tracing needs no GPU, so every machine can check it.

In a process of its own: the shape checker of the test run cannot be traced.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
from tiny_hybrids import PLANS, tiny_hybrid, tokens

ids = tokens()
for name, plan in PLANS.items():
    if "everywhere" in name or "everything" in name:
        torch._dynamo.reset()
        model = tiny_hybrid(plan, dtype=torch.float32)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        with torch.no_grad():
            difference = compiled(ids, use_cache=False).logits - model(ids, use_cache=False).logits
        assert difference.abs().max() < 1e-5, name
        print("traced", name)
"""


@pytest.mark.slow
def test_every_mixer_is_one_graph() -> None:
    tests = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "traced everything-q_head" in result.stdout
