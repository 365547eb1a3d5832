"""Codecs for the task tests: one of characters, one real byte-level BPE trained in the process."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hydrahead.tasks import codec_from_tokenizer
from hydrahead.tasks.words import ACTIONS, ADJECTIVES, COLOURS, KEYS, OBJECTS, PEOPLE, PLACES, TIMES


class CharacterCodec:
    """A token per character: the same ids in every version of every library."""

    def encode(self, text):
        return [ord(character) for character in text]

    def decode(self, ids):
        return "".join(map(chr, ids))


@pytest.fixture(scope="session")
def characters():
    return CharacterCodec()


@pytest.fixture(scope="session")
def bpe_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = [*KEYS, *ADJECTIVES, *PEOPLE, *ACTIONS, *COLOURS, *OBJECTS, *PLACES, *TIMES]
    text = (
        " ".join(words)
        + " The secret number of the is are VAR was has have One Two Six Ten Four Five Nine"
    )
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([text] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )


@pytest.fixture(scope="session")
def bpe(bpe_tokenizer):
    return codec_from_tokenizer(bpe_tokenizer)
