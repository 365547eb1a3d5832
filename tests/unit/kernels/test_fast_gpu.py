"""Fast equals reference on a real GPU: the small part of `benchmarks/kernels/verify.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

VERIFY = Path(__file__).parents[3] / "benchmarks" / "kernels" / "verify.py"


@pytest.mark.gpu
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("op", ["gated_delta", "lightning"])
def test_fast_equals_reference(op: str, tmp_path: Path) -> None:
    pytest.importorskip("fla")
    out = tmp_path / "verify.json"
    command = [sys.executable, str(VERIFY), "--quick", "--op", op, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(out.read_text())["passed"]
