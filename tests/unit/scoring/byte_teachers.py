"""Small random checkpoints whose tokenizer has one token per byte, so that real tasks can be drawn
for them."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tiny_teachers import tiny_config, tiny_model

EASY = {
    "probes": {"retrieval": ["niah_single:digits=3", "niah_multikey:keys=2,digits=3"]},
    "pairs": 2,
    "length": 200,
}
"""Few and short probes."""


def byte_teacher(directory: Path, family: str = "qwen3", *, seed: int = 2, **changes: Any) -> Path:
    """A checkpoint directory with a context of 256 tokens."""
    config = tiny_config(family, num_hidden_layers=2, vocab_size=260, **changes)
    tiny_model(config, seed=seed).save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {c: 3 + i for i, c in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
