"""Models to evaluate: fakes that look answers up, and a tiny real one, all with one tokenizer."""

import random
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from hydrahead.core.progress import Progress
from hydrahead.tasks.words import ACTIONS, ADJECTIVES, KEYS, OBJECTS, PEOPLE, PLACES, TIMES


@pytest.fixture(scope="session")
def tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = [*KEYS, *ADJECTIVES, *PEOPLE, *ACTIONS, *OBJECTS, *PLACES, *TIMES]
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    text = " ".join(words) + " The secret number of the is are VAR Remember numbers in this text"
    tokenizer.train_from_iterator([text] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )


@pytest.fixture(scope="session")
def tiny_config(tokenizer):
    return Qwen3Config(
        vocab_size=len(tokenizer),
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        hidden_size=32,
        intermediate_size=48,
        max_position_embeddings=640,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )


@pytest.fixture
def tiny_model(tiny_config):
    torch.manual_seed(3)
    return Qwen3ForCausalLM(tiny_config).eval()


class LookupModel(torch.nn.Module):
    """Reads a needle prompt as text and says the number after the key it is asked for.

    `answer(right)` turns the right digits into what is said: itself, something wrong, or either.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, tokenizer, config, answer):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.config = config
        self.generation_config = GenerationConfig(temperature=0.3, do_sample=True)
        self.batches = []
        self._tokenizer = tokenizer
        self._answer = answer

    def generate(self, input_ids, attention_mask, max_new_tokens, **settings):
        assert settings["do_sample"] is False
        assert self.generation_config.temperature in (None, 1.0)
        self.batches.append(len(input_ids))
        rows = []
        for row, mask in zip(input_ids, attention_mask, strict=True):
            assert mask.tolist() == sorted(mask.tolist()), "padding belongs on the left"
            text = self._tokenizer.decode(row[mask.bool()])
            sentence = text[text.rindex(" The secret number") :]
            right = text.split(sentence + " ", 1)[1].split(".")[0]
            ids = self._tokenizer.encode(f" {self._answer(right)}", add_special_tokens=False)
            padding = [self._tokenizer.pad_token_id] * max_new_tokens
            rows.append([*row.tolist(), *(ids + padding)[:max_new_tokens]])
        return torch.tensor(rows)


@pytest.fixture
def lookup(tokenizer, tiny_config):
    """make(answer) -> a LookupModel with a context of 4096 tokens."""
    values = {**tiny_config.to_dict(), "max_position_embeddings": 4096}
    config = SimpleNamespace(to_dict=lambda: values)
    return lambda answer: LookupModel(tokenizer, config, answer)


@pytest.fixture
def perfect(lookup):
    return lookup(lambda right: right)


@pytest.fixture
def wrong(lookup):
    return lookup(lambda right: "0" * len(right))


@pytest.fixture
def guessing(lookup):
    rng = random.Random(5)
    return lookup(lambda right: right if rng.random() < 0.5 else "11111")


@pytest.fixture
def quiet():
    return Progress(silent=True)
