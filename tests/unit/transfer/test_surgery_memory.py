"""An 8B-shaped checkpoint in one shard is restored with less than 256 MiB of memory."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_convert_memory import _save_zeros

LIMIT_BYTES = 256 << 20
RESTORE = """
import re, sys
from pathlib import Path
import hydrahead.pipeline.diagnose
from hydrahead.transfer.surgery import restore_qk

def status(key):
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{key}:\\s+(\\d+) kB", text, re.MULTILINE).group(1)) * 1024

pre, post, out, variant = sys.argv[1:]
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
restore_qk(pre, post, Path(out), variant=variant)
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("variant", ["qk", "pro"])
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_growth_stays_below_256_mib(tmp_path: Path, variant: str) -> None:
    pre, post, out = (tmp_path / name for name in ("pre", "post", "out"))
    for directory in (pre, post):
        directory.mkdir()
        num_bytes = _save_zeros(directory)
    if shutil.disk_usage(tmp_path).free < 1.2 * num_bytes:
        pytest.skip("not enough disk for a 16 GB checkpoint")
    try:
        result = subprocess.run(
            [sys.executable, "-c", RESTORE, str(pre), str(post), str(out), variant],
            capture_output=True,
            text=True,
            check=True,
        )
        assert (out / "model.safetensors").stat().st_size > num_bytes
        growth = int(result.stdout.split()[-1])
        print(f"memory growth {growth / (1 << 20):.0f} MiB for {num_bytes / 1e9:.1f} GB")
        assert growth < LIMIT_BYTES
    finally:
        shutil.rmtree(tmp_path)
