"""Generated arithmetic to fine-tune on: chains of thought, and the same sums without a chain.

chain    a sum of several terms, worked out step by step: every step needs the result of the step
         before it and the next term of the question, both some ten to fifty tokens back
sums     independent one-step sums: the same digits and signs, but no step needs another
text     windows of running text (the built-in corpus): no arithmetic at all

Values stay in 0 ... `highest`: 99, or 9 for sums of one digit that a short training can learn.
Every row is filled with problems; only what follows from the text before it is learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from hydrahead.core.seeds import generator
from hydrahead.tasks.codec import TextCodec, start_ids

KINDS = ("chain", "sums", "text")
IGNORE = -100
Piece = tuple[str, bool]
"""Text, and whether it is learned."""


@dataclass(frozen=True, slots=True)
class Sums:
    """How hard the arithmetic is."""

    steps: int
    """Of a problem; problems to train on have one less in half of the cases."""
    highest: int
    """Values stay in 0 ... highest."""


def chain_problem(rng: Random, steps: int, highest: int) -> list[Piece]:
    """A question and its solution, step by step."""
    value = rng.randrange(highest + 1)
    question, solution = f"\nSolve {value}", ""
    for _ in range(steps):
        sign, term, result = _step(rng, value, highest)
        question += f" {sign} {term}"
        solution += f"\n{value} {sign} {term} = {result}"
        value = result
    return [(question, False), (solution + f"\nAnswer {value}.", True)]


def sums_problem(rng: Random, steps: int, highest: int) -> list[Piece]:
    """As many sums, each on its own."""
    pieces: list[Piece] = []
    for _ in range(steps):
        value = rng.randrange(highest + 1)
        sign, term, result = _step(rng, value, highest)
        pieces += [(f"\n{value} {sign} {term} =", False), (f" {result}", True)]
    return pieces


def arithmetic_rows(
    kind: str, codec: TextCodec, *, rows: int, length: int, seed: int, batch: int, sums: Sums
) -> tuple[Tensor, Tensor]:
    """A batch of packed problems: ids [b, t], and labels [b, t] for the token after each."""
    make = {"chain": chain_problem, "sums": sums_problem}[kind]
    ids_rows, label_rows = [], []
    for row in range(rows):
        rng = generator(seed, kind, batch, row)
        ids, learned = list(start_ids(codec)), [False] * len(start_ids(codec))
        while len(ids) <= length:
            for text, is_learned in make(
                rng, rng.randint(sums.steps - 1, sums.steps), sums.highest
            ):
                piece = codec.encode(text)
                ids += piece
                learned += [is_learned] * len(piece)
        ids_rows.append(ids[:length])
        after = zip(ids[1 : length + 1], learned[1 : length + 1], strict=True)
        label_rows.append([token if is_learned else IGNORE for token, is_learned in after])
    return torch.tensor(ids_rows), torch.tensor(label_rows)


def text_rows(
    tokens: Sequence[int], *, rows: int, length: int, seed: int, batch: int
) -> tuple[Tensor, Tensor]:
    """A batch of text windows; every token is learned."""
    starts = [
        generator(seed, "text", batch, row).randrange(len(tokens) - length - 1)
        for row in range(rows)
    ]
    windows = torch.tensor([tokens[start : start + length + 1] for start in starts])
    return windows[:, :-1], windows[:, 1:]


def problems(
    codec: TextCodec, *, count: int, seed: int, sums: Sums, kind: str = "chain"
) -> list[tuple[list[int], list[int]]]:
    """Held-out problems, one each: (prompt ids, solution ids)."""
    found = []
    for number in range(count):
        rng = generator(seed, "held out", kind, number)
        if kind == "chain":
            question, solution = chain_problem(rng, sums.steps, sums.highest)
        else:
            question, solution = sums_problem(rng, 1, sums.highest)
        found.append(([*start_ids(codec), *codec.encode(question[0])], codec.encode(solution[0])))
    return found


def _step(rng: Random, value: int, highest: int) -> tuple[str, int, int]:
    """Sign, term 1 ... 9 and result, which stays in 0 ... highest."""
    term = 1 + rng.randrange(min(9, max(value, highest - value)))
    minus = value + term > highest or (value - term >= 0 and rng.random() < 0.5)
    return ("-", term, value - term) if minus else ("+", term, value + term)
