"""Patched runs the slow way: whole forwards of the real model, activations replaced through taps.

Nothing of the scoring room's mathematics is used here but the definition of the readout.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hydrahead.mixers.contract import ParallelMixer
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.model.taps import record, replace
from hydrahead.scoring.readout import Readout

ATTENTION_SITES = ("query", "key", "value", "heads", "attention_output")


def always(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: value


class NaivePatching:
    """Clean and corrupted forwards of one pair, and patched forwards of the whole sequence."""

    def __init__(self, model: HydraForCausalLM, readout: Readout) -> None:
        self.model, self.readout = model, readout
        self.ids = torch.tensor([readout.clean_ids])
        self.parallel = [m for m in model.modules() if isinstance(m, ParallelMixer)]
        self.beside: list[Tensor] = []
        with (
            self._hooked(lambda index, out: self.beside.append(out)),
            record(model, ATTENTION_SITES) as self.clean,
        ):
            self.m_clean = self._m(self.ids)
        with record(model, ATTENTION_SITES) as self.corrupted:
            self.m_corrupted = self._m(torch.tensor([readout.corrupted_ids]))
        self.layers = range(len(model.model.layers))

    def receiver(self, layer: int, head: int) -> float:
        """The head corrupted at every position, every later attention output frozen to clean."""
        changes: dict[Any, Any] = {
            ("attention_output", later): always(self.clean["attention_output", later])
            for later in self.layers
            if later > layer
        }
        changes["heads", layer] = self._corrupt(head, self.corrupted["heads", layer])
        return self._patched(changes)

    def sender(self, layer: int, head: int, receivers: Tensor) -> float:
        """Two forwards: what the receivers answer to the sender, and that answer alone, read
        out."""
        first: dict[Any, Any] = {
            ("heads", layer): self._corrupt(head, self.corrupted["heads", layer])
        }
        for later in self.layers:
            if later <= layer:
                continue
            first["query", later] = self._at_rows(self.clean["query", later])
            first["key", later] = always(self.clean["key", later])
            first["value", later] = always(self.clean["value", later])
            first["heads", later] = self._only(receivers[later], self.clean["heads", later])
        kept = self._hooked(lambda index, out: self.beside[index])
        with replace(self.model, first), kept, record(self.model, ["heads"]) as answered:
            self.model(input_ids=self.ids, use_cache=False)
        second: dict[Any, Any] = {
            ("heads", each): always(self.clean["heads", each]) for each in self.layers
        }
        for later in self.layers:
            if later > layer and receivers[later].any():
                second["heads", later] = always(answered["heads", later])
        with self._hooked(lambda index, out: self.beside[index]):
            return self._patched(second)

    @contextmanager
    def _hooked(self, change: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
        """Heads beside the attention answer to nobody: their outputs are read, or kept clean."""

        def hook(index: int) -> Callable[..., Any]:
            def run(module: Any, inputs: Any, outputs: Any) -> Any:
                changed = change(index, outputs[0])
                return None if changed is None else (changed, *outputs[1:])

            return run

        handles = [m.register_forward_hook(hook(i)) for i, m in enumerate(self.parallel)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _corrupt(self, head: int, corrupted: Tensor) -> Callable[[Tensor], Tensor]:
        start = self.readout.first_change

        def change(heads: Tensor) -> Tensor:
            heads = heads.clone()
            heads[:, start:, head] = corrupted[:, start:, head]
            return heads

        return change

    def _at_rows(self, clean: Tensor) -> Callable[[Tensor], Tensor]:
        """Queries may differ from clean at the readout rows only."""
        rows = list(self.readout.rows)

        def change(query: Tensor) -> Tensor:
            kept = clean.clone()
            kept[:, rows] = query[:, rows]
            return kept

        return change

    def _only(self, live: Tensor, clean: Tensor) -> Callable[[Tensor], Tensor]:
        """Heads that are no receivers stay clean."""
        return lambda heads: torch.where(live[:, None], heads, clean)

    def _patched(self, changes: dict[Any, Any]) -> float:
        with replace(self.model, changes):
            return self._m(self.ids)

    def _m(self, ids: Tensor) -> float:
        logits = self.model(input_ids=ids, use_cache=False).logits[0]
        total = 0.0
        triples = zip(self.readout.right, self.readout.wrong, self.readout.weights, strict=True)
        for row, (right, wrong, weight) in zip(self.readout.rows, triples, strict=True):
            total += weight * float(logits[row, right] - logits[row, wrong])
        return total


def random_pair(
    vocab_size: int,
    *,
    prompt: int = 24,
    changed: Sequence[int] = (17, 18),
    answer: int = 3,
    seed: int = 0,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(clean prompt, corrupted prompt, clean answer, other answer) of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(3, vocab_size, (prompt,), generator=generator).tolist()
    corrupted = list(clean)
    for place in changed:
        corrupted[place] = 3 + (corrupted[place] - 3 + 7) % (vocab_size - 3)
    right = torch.randint(3, vocab_size, (answer,), generator=generator).tolist()
    wrong = [3 + (token - 3 + 11) % (vocab_size - 3) for token in right]
    return tuple(clean), tuple(corrupted), tuple(right), tuple(wrong)
