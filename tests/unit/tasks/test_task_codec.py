"""Segments encoded alone are what they are inside a text, whatever the tokenizer adds."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hydrahead.core.seeds import generator
from hydrahead.tasks import build_task, codec_from_tokenizer
from hydrahead.tasks.codec import start_ids
from hydrahead.tasks.draws import below, digits, other_digits, pick_distinct, shuffled
from hydrahead.tasks.words import KEYS


@pytest.fixture(scope="module")
def sentencepiece_like():
    """A space of its own before every text, and a token that begins it: Llama 2 and Mistral."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    text = " ".join(KEYS) + " The secret number of the is 0 1 2 3 4 5 6 7 8 9 . , ?"
    tokenizer.train_from_iterator([text] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_a_tokenizer_that_adds_a_space_is_cured_of_it(sentencepiece_like):
    codec = codec_from_tokenizer(sentencepiece_like)
    parts = [" The secret", " number", " of the harbour", " is", " 4", "."]
    together = [token for part in parts for token in codec.encode(part)]
    assert codec.decode(together).strip() == "The secret number of the harbour is 4."
    assert together == codec.encode("".join(parts))


def test_prompts_start_with_what_the_tokenizer_starts_with(sentencepiece_like, bpe, characters):
    codec = codec_from_tokenizer(sentencepiece_like)
    bos = sentencepiece_like.convert_tokens_to_ids("<s>")
    assert start_ids(codec) == (bos,)
    assert start_ids(bpe) == start_ids(characters) == ()
    for name in ("niah_single", "variable_tracking", "mqar", "general", "copy_spans"):
        sample = build_task(name).sample(codec, length=600, seed=1, index=0)
        assert sample.prompt_ids[0] == bos
        assert bos not in sample.prompt_ids[1:]


def test_an_encoding_may_be_changed_by_its_owner(bpe):
    first = bpe.encode(" harbour")
    first.append(0)
    assert bpe.encode(" harbour") == first[:-1]


def test_draws_reach_everything_and_repeat_nothing():
    rng = generator(1, "draws")
    assert {below(rng, 5) for _ in range(200)} == {0, 1, 2, 3, 4}
    assert sorted(shuffled(rng, range(20))) == list(range(20))
    for count in (1, 5, 19, 20):
        assert len(set(pick_distinct(rng, range(20), count))) == count
    for _ in range(200):
        number = digits(rng, 5)
        other = other_digits(rng, number)
        assert len(number) == len(other) == 5
        assert number[0] != "0" != other[0]
        assert all(a != b for a, b in zip(number, other, strict=True))
