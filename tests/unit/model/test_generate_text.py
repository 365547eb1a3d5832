"""Text from a prompt: what `hydrahead generate` calls."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.generation import GeneratedText, encode_prompt, generate_text
from hydrahead.model.loading import load_model, load_tokenizer
from tiny_teachers import save_teacher

PROMPT = " ".join(f"w{i % 60}" for i in range(3, 40))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teacher"), "qwen3")


def text(model: Any, **settings: Any) -> GeneratedText:
    return generate_text(model, PROMPT, max_new_tokens=9, **settings)


def test_every_way_gives_the_same_text(teacher: Path) -> None:
    first = text(teacher)
    assert (first.prompt_tokens, first.new_tokens) == (37, 9)
    assert first.text
    assert first.seconds > 0
    # 3 layers, keys and values of 2 groups of width 8 in fp32; the last token was never read.
    assert first.cache_bytes == 3 * 2 * 2 * 8 * 4 * (37 + 9 - 1)
    model, tokenizer = load_model(teacher), load_tokenizer(teacher)
    assert text(model, tokenizer=tokenizer).text == first.text
    for settings in (
        {"prefill_chunk_tokens": 8},
        {"cache_implementation": "static"},
        {"attn_implementation": "eager"},
        {"seed": 7},
    ):
        assert text(teacher, **settings).text == first.text
    pieces: list[str] = []
    assert text(teacher, on_text=pieces.append).text == "".join(pieces)
    assert len(pieces) > 1


def test_a_checkpoint_that_asks_for_beams_is_streamed_greedily(
    teacher: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(teacher, tmp_path / "beams")
    settings = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps(settings | {"num_beams": 3}))
    assert text(other, on_text=lambda piece: None).text == text(teacher).text


def test_sampling_follows_its_seed_and_leaves_the_global_one(teacher: Path) -> None:
    before = torch.random.get_rng_state()
    drawn = [text(teacher, temperature=2.0, seed=seed).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_chat_wraps_the_prompt(teacher: Path) -> None:
    tokenizer = load_tokenizer(teacher)
    plain = encode_prompt(tokenizer, "w5 w6")
    assert plain.tolist() == encode_prompt(tokenizer, "w5 w6", chat=True).tolist()
    tokenizer.chat_template = "w1 {% for m in messages %}{{ m['content'] }}{% endfor %} w2"
    chat = encode_prompt(tokenizer, "w5 w6", chat=True)
    ends = tokenizer("w1 w2")["input_ids"]
    assert chat[0].tolist() == [ends[0], *plain[0].tolist(), ends[1]]
    tokenizer.chat_template = None
    with pytest.raises(HydraHeadError, match="no chat template"):
        encode_prompt(tokenizer, "w5 w6", chat=True)


def test_an_empty_prompt(teacher: Path) -> None:
    tokenizer = load_tokenizer(teacher)
    assert encode_prompt(tokenizer, "").tolist() == [[tokenizer.bos_token_id]]
    tokenizer.bos_token = None
    with pytest.raises(HydraHeadError, match="prompt is empty"):
        encode_prompt(tokenizer, "")


def test_a_context_longer_than_the_model_is_refused(teacher: Path) -> None:
    with pytest.raises(HydraHeadError, match="the model's context is 256"):
        generate_text(teacher, PROMPT, max_new_tokens=220)
    result = generate_text(teacher, PROMPT, max_new_tokens=220, allow_long=True)
    assert result.prompt_tokens + result.new_tokens > 256 or result.new_tokens < 220
    with pytest.raises(HydraHeadError, match="max_new_tokens is 0"):
        generate_text(teacher, PROMPT, max_new_tokens=0)


def test_a_loaded_model_needs_its_tokenizer(teacher: Path) -> None:
    with pytest.raises(HydraHeadError, match="needs its tokenizer"):
        text(load_model(teacher))


def test_any_causal_model_of_transformers(teacher: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "vocab_size": 67, "max_position_embeddings": 64}
    other = LlamaForCausalLM(LlamaConfig(**sizes, **heads, eos_token_id=None)).eval()
    result = text(other, tokenizer=AutoTokenizer.from_pretrained(teacher))
    assert result.new_tokens == 9
    assert result.cache_bytes is None
