"""A random encoder with a fast tokenizer, and documents whose keyphrases can be learned."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SYLLABLES = [a + b for a in "bcdfglmnprst" for b in "aeiou"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
FILLER = "the of and to in is it for on with as at by from".split()  # noqa: SIM905
TOPICS = ["gated delta", "rotary embedding", "window", "linear attention", "memory"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over syllables, letters and some words."""
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = [*FILLER, *(word for topic in TOPICS for word in topic.split())]
    starts = list(dict.fromkeys([*SPECIAL, *letters, *SYLLABLES, *words]))
    pieces = starts + [f"##{piece}" for piece in [*letters, *SYLLABLES]]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )


def tiny_bert(vocab_size: int) -> BertModel:
    """One layer, 16 wide."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )
    return BertModel(config, add_pooling_layer=False)


def write_encoder(folder: Path) -> Path:
    """An encoder directory."""
    tokenizer = tiny_tokenizer()
    tiny_bert(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_text(rng: random.Random, words: int) -> str:
    """Filler with a topic now and then."""
    parts = [rng.choice(TOPICS) if rng.random() < 0.1 else rng.choice(FILLER) for _ in range(words)]
    return " ".join(parts) + "."


def make_documents(count: int, *, words: int = 120, seed: int = 0) -> list[dict[str, Any]]:
    """Records with all topics as keyphrases."""
    rng = random.Random(seed)
    return [
        {"id": f"d{seed}-{n}", "text": make_text(rng, words), "keyphrases": TOPICS}
        for n in range(count)
    ]


def write_jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
