"""A language model of a few hundred parameters, batches for it, a byte tokenizer."""

import os
import signal
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from hydrahead.training.batch import IGNORE, Batch
from hydrahead.training.config import TrainConfig
from hydrahead.training.head_loss import Targets, chunked_cross_entropy
from hydrahead.training.loop import train
from hydrahead.training.objectives import Objective, ObjectiveOutput

VOCAB = 17


class Block(nn.Module):
    def __init__(self, size, dtype):
        super().__init__()
        self.mix = nn.Linear(size, size, dtype=dtype)
        self.gates = nn.Linear(size, 1)
        self.norm = nn.Parameter(torch.ones(size, dtype=dtype))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        gate = torch.sigmoid(self.gates(x.to(self.gates.weight.dtype))).to(x.dtype)
        return x + self.dropout(torch.tanh(self.mix(x)) * gate) * self.norm


class TinyLM(nn.Module):
    def __init__(self, dtype=torch.float32, size=8, layers=2):
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Embedding(VOCAB, size, dtype=dtype)
        self.layers = nn.ModuleList(Block(size, dtype) for _ in range(layers))
        self.head = nn.Linear(size, VOCAB, bias=False, dtype=dtype)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return x


class TinyObjective(Objective):
    def __init__(self, model, before=None):
        self.model = model
        self.before = before
        self.calls = 0

    def __call__(self, batch):
        self.calls += 1
        if self.before is not None:
            self.before(self.calls)
        targets = Targets.of(batch)
        rows = targets.rows(self.model(batch.input_ids))
        loss, right = chunked_cross_entropy(rows, self.model.head.weight, None, targets)
        return ObjectiveOutput(loss=loss, weight=targets.weight, sums={"accuracy": right})


class CountedBatches:
    """Batch i is a function of i; some labels are ignored, so micro-batches weigh differently."""

    def __init__(self, limit=None):
        self.next = 0
        self.limit = limit

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]

    def __iter__(self):
        while self.limit is None or self.next < self.limit:
            yield self.make(self.next)

    def make(self, index):
        self.next = index + 1
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(0, VOCAB, (2, 7), generator=generator)
        labels = ids.roll(-1, 1)
        labels[torch.rand(labels.shape, generator=generator) < 0.2 + 0.4 * (index % 2)] = IGNORE
        return Batch(
            input_ids=ids, labels=labels, position_ids=torch.arange(7).expand(2, 7).contiguous()
        )


CONFIG = TrainConfig(
    steps=9,
    batch_size=2,
    length=7,
    accumulation=2,
    lr=1e-2,
    min_lr=1e-3,
    warmup_steps=2,
    weight_decay=0.1,
    checkpoint_every=3,
    log_every=2,
    seed=5,
)


def run(directory, *, before=None, config=CONFIG, dtype=torch.float32, limit=None):
    """Train a fresh model in `directory`, going on from what is there."""
    model = TinyLM(dtype)
    objective = TinyObjective(model, before)
    result = train(model, objective, CountedBatches(limit), config, directory)
    return model, result


def at_call(number, act):
    """Act when the objective is called for the `number`-th time."""

    def before(calls):
        if calls == number:
            act()

    return before


def byte_tokenizer(chat_template=None):
    """Bytes as tokens, with start and end tokens; fast, so it knows offsets."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<s>": 0, "</s>": 1, "<|im|>": 2} | {b: i + 3 for i, b in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<|im|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = chat_template
    return fast


if __name__ == "__main__":  # the process that a test kills
    kill = at_call(int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL))
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), before=kill)
