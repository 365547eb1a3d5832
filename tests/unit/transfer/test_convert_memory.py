"""An 8B-shaped checkpoint in one shard is converted with less than 3 GiB of memory."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT_BYTES = 3 << 30
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "dtype": "bfloat16",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}

CONVERT = """
import re, sys
from pathlib import Path
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.transfer.convert import convert
import hydrahead.mixers.full, hydrahead.mixers.gated_delta

def status(key):
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{key}:\\s+(\\d+) kB", text, re.MULTILINE).group(1)) * 1024

teacher, out = map(Path, sys.argv[1:])
geometry = ModelGeometry.from_pretrained(teacher)
plan = HeadPlan.uniform(geometry, GatedDeltaSpec())
plan = plan.replace({(layer, layer % 8): FullSpec() for layer in range(36)})
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
convert(teacher, plan, out)
print(status("VmHWM") - before)
"""


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = 4096, 12288
    yield "model.embed_tokens.weight", (151936, hidden)
    yield "lm_head.weight", (151936, hidden)
    yield "model.norm.weight", (hidden,)
    for layer in range(36):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", 4096), ("k", 1024), ("v", 1024)):
            yield f"{prefix}self_attn.{name}_proj.weight", (rows, hidden)
        yield f"{prefix}self_attn.o_proj.weight", (hidden, 4096)
        for name in ("q_norm", "k_norm"):
            yield f"{prefix}self_attn.{name}.weight", (128,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{name}.weight", (hidden,)
        for name in ("gate_proj", "up_proj"):
            yield f"{prefix}mlp.{name}.weight", (inner, hidden)
        yield f"{prefix}mlp.down_proj.weight", (hidden, inner)


def _save_zeros(directory: Path) -> int:
    """One shard of zeros that takes no space on the disk (a hole); its size."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in _shapes():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    with open(directory / "model.safetensors", "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return end


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_growth_stays_below_3_gib(tmp_path: Path) -> None:
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    teacher.mkdir()
    num_bytes = _save_zeros(teacher)
    if shutil.disk_usage(tmp_path).free < 1.2 * num_bytes:
        pytest.skip("not enough disk for a 16 GB checkpoint")
    try:
        result = subprocess.run(
            [sys.executable, "-c", CONVERT, str(teacher), str(out)],
            capture_output=True,
            text=True,
            check=True,
        )
        shards = list(out.glob("model-*.safetensors"))
        assert sum(shard.stat().st_size for shard in shards) > num_bytes
        growth = int(result.stdout.split()[-1])
        print(f"memory growth {growth / (1 << 30):.2f} GiB for {num_bytes / 1e9:.1f} GB")
        assert growth < LIMIT_BYTES
    finally:
        shutil.rmtree(tmp_path)
