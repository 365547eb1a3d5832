"""Probabilities of every word of a prepared document, and the decoding choices they imply."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hydrahead.keyphrase.context import BatchContext, DocumentContext
from hydrahead.keyphrase.decoding import RANKINGS, find_spans, gather_occurrences, ranked
from hydrahead.keyphrase.documents import Document
from hydrahead.keyphrase.encodings import Prepared, collate, known_words
from hydrahead.keyphrase.metrics import mean_scores, phrase_scores, present
from hydrahead.keyphrase.modeling import KeyphraseModel
from hydrahead.keyphrase.windows import Window

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Tried on the validation split: words are rarely inside a phrase, and which error costs more
depends on how many phrases people gave."""


def batch_context(
    model: KeyphraseModel,
    context: DocumentContext,
    windows: Sequence[int],
    *,
    donor: DocumentContext | None = None,
) -> BatchContext | None:
    """What the model may look at beside some windows.

    As a control it is `donor`'s words, around the windows of the same numbers (its numbers go
    round if it has fewer): as many windows as the document itself would give.
    """
    if not model.config.expands:
        return None
    if donor is None:
        return context.batch(windows, model.config.neighbours)
    lent = [window % max(1, donor.num_windows) for window in windows]
    return donor.batch(lent, model.config.neighbours)


def run_windows(
    model: KeyphraseModel,
    windows: Sequence[Window],
    context: BatchContext | None,
    *,
    pad_id: int,
    encoded: Tensor | None = None,
) -> Tensor:
    """Logits [b w 3] of some windows, from their tokens or from kept states."""
    device = model.classifier.weight.device
    inputs: dict[str, Tensor] = (
        collate(windows, pad_id) if encoded is None else {"encoded": encoded}
    )
    inputs = {name: value.to(device) for name, value in inputs.items()}
    if context is not None:
        moved = context.to(device)
        inputs |= {"context_rows": moved.rows, "context_log_counts": moved.log_counts}
    return model(**inputs).logits


def stack_states(windows: Sequence[Window], states: np.ndarray) -> Tensor:
    """Kept states of some windows as rows, float32 [b w d]."""
    longest = max(window.stop - window.first for window in windows)
    stacked = np.zeros((len(windows), longest, states.shape[1]), np.float32)
    for row, window in enumerate(windows):
        stacked[row, : window.stop - window.first] = states[window.first : window.stop]
    return torch.from_numpy(stacked)


def fill_probabilities(out: np.ndarray, windows: Sequence[Window], logits: Tensor) -> None:
    """Write P(B) and P(I) of some windows' words into the document's array [n 2]."""
    chances = logits.float().softmax(dim=-1)[..., 1:].cpu().numpy()
    for row, window in zip(chances, windows, strict=True):
        count = window.stop - window.first
        out[window.first : window.stop] = row[:count] * known_words(window)[:, None]


@torch.inference_mode()
def predict(
    model: KeyphraseModel,
    one: Prepared,
    *,
    pad_id: int = 0,
    batch_size: int = 8,
    states: np.ndarray | None = None,
    donor: DocumentContext | None = None,
) -> np.ndarray:
    """P(B) and P(I) of every word of a document, float32 [n 2]."""
    out = np.zeros((len(one.document.spans), 2), np.float32)
    for start in range(0, len(one.windows), batch_size):
        windows = one.windows[start : start + batch_size]
        numbers = range(start, start + len(windows))
        context = batch_context(model, one.context, numbers, donor=donor)
        encoded = None if states is None else stack_states(windows, states)
        logits = run_windows(model, windows, context, pad_id=pad_id, encoded=encoded)
        fill_probabilities(out, windows, logits)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How probabilities become phrases, chosen on the validation split."""

    threshold: float
    ranking: str
    scores: dict[str, float]
    """Phrase scores of the validation documents with these."""


def choose_decoding(
    documents: Sequence[Document], probabilities: Sequence[np.ndarray], *, max_words: int
) -> Decoding:
    """The threshold with the best F1@M, then the ranking with the best F1@10.

    Args:
        documents: Of the validation split; those without a present keyphrase do not count.
        probabilities: P(B) and P(I) of their words.
        max_words: Longest phrase.
    """
    golds = [present(document) for document in documents]
    best: Decoding | None = None
    for threshold in THRESHOLDS:
        rows: dict[str, list[dict[str, float]]] = {ranking: [] for ranking in RANKINGS}
        for document, chances, gold in zip(documents, probabilities, golds, strict=True):
            if not gold:
                continue
            spans = find_spans(document, chances, threshold, max_words)
            found = gather_occurrences(document, chances, spans)
            for ranking, scores in rows.items():
                phrases = ranked(found, ranking)
                scores.append(phrase_scores([phrase.phrase for phrase in phrases], gold))
        tried = [
            Decoding(threshold=threshold, ranking=ranking, scores=mean_scores(scores))
            for ranking, scores in rows.items()
        ]
        for choice in tried:
            if best is None or _better(choice, best):
                best = choice
    assert best is not None
    return best


def _better(one: Decoding, other: Decoding) -> bool:
    names = ("f1@m", "f1@10")
    return [one.scores[n] for n in names] > [other.scores[n] for n in names]
