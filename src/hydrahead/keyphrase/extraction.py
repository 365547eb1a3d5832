"""Keyphrases of texts with a trained tagger, in memory that windows do not add up in.

A document is read twice in windows: once to count its words (the context), once to tag them. What
grows with it is its text, the offsets and probabilities of its words (16 bytes each) and the counts
of distinct words per window; states and attention are held for a few windows at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json
from hydrahead.core.progress import Progress
from hydrahead.keyphrase.configuration import KeyphraseConfig
from hydrahead.keyphrase.context import DocumentContext
from hydrahead.keyphrase.decoding import Keyphrase, find_spans, rank_phrases
from hydrahead.keyphrase.documents import Document
from hydrahead.keyphrase.encoders import load_tokenizer, quiet_transformers
from hydrahead.keyphrase.encodings import pad_id_of
from hydrahead.keyphrase.modeling import KeyphraseModel, move
from hydrahead.keyphrase.prediction import batch_context, fill_probabilities, run_windows
from hydrahead.keyphrase.static_vectors import load_words, lookup_in_tokens, lookup_in_words
from hydrahead.keyphrase.windows import Window, WindowCutter
from hydrahead.model.hub import resolve_model_dir


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """A document's probabilities and the spans they imply."""

    document: Document
    probabilities: np.ndarray
    """P(B) and P(I) of every word, float32 [n 2]."""
    spans: list[tuple[int, int]]
    """Words [first, stop)."""


class KeyphraseExtractor:
    """A tagger with its tokenizer, called like a pipeline: a text in, ranked phrases out.

    Args:
        model: In evaluation mode, on its device.
        tokenizer: Its encoder's.
        batch_size: Windows at a time.
    """

    def __init__(self, model: KeyphraseModel, tokenizer: Any, *, batch_size: int = 8) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self._cutter = WindowCutter(tokenizer, model.config.window_tokens)
        words = model.static_words
        self._lookup = lookup_in_tokens(tokenizer) if words is None else lookup_in_words(words)

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, device: str = "cpu", batch_size: int = 8
    ) -> "KeyphraseExtractor":
        """Load a trained tagger from its directory or by its Hugging Face name.

        Raises:
            HydraHeadError: There is none, it is no tagger of ours, or it is damaged.
        """
        directory = resolve_model_dir(model)
        config = directory / "config.json"
        fields = read_json(config)
        if not isinstance(fields, dict) or fields.get("model_type") != KeyphraseConfig.model_type:
            raise HydraHeadError(
                "is no keyphrase model",
                where=directory,
                mend="make one with hydrahead keyphrases train",
            )
        tokenizer = load_tokenizer(directory)
        loaded = load_tagger(directory).eval()
        move(loaded, device)
        return cls(loaded, tokenizer, batch_size=batch_size)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write model and tokenizer, to be loaded again by `from_pretrained`."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def push_to_hub(self, name: str, **options: Any) -> None:
        """Publish model and tokenizer on Hugging Face, with the options of transformers."""
        cast(Any, self.model).push_to_hub(name, **options)
        self.tokenizer.push_to_hub(name, **options)

    def __call__(
        self, texts: str | Document | Sequence[str | Document], *, top: int | None = None
    ) -> Any:
        """Keyphrases, best first; a list of lists for several texts.

        Args:
            texts: One text or document, or several.
            top: How many at most; None gives all above the model's threshold.
        """
        if isinstance(texts, str | Document):
            return self.extract(texts, top=top)
        return [self.extract(text, top=top) for text in texts]

    def extract(
        self, text: str | Document, *, top: int | None = None, progress: Progress | None = None
    ) -> list[Keyphrase]:
        """Keyphrases of one document, best first."""
        tagged = self.tag(text, progress=progress)
        ranking = self.model.config.ranking
        return rank_phrases(tagged.document, tagged.probabilities, tagged.spans, ranking)[:top]

    @torch.inference_mode()
    def tag(self, text: str | Document, *, progress: Progress | None = None) -> Tagged:
        """Probabilities of every word and the spans they imply."""
        document = Document("text", text) if isinstance(text, str) else text
        task = (progress or Progress(silent=True)).task("words", len(document.spans))
        model, pad = self.model, pad_id_of(self.tokenizer)
        context = DocumentContext(self._lookup)
        if model.config.expands:
            context = DocumentContext.of(document, self._cutter.windows(document), self._lookup)
        out = np.zeros((len(document.spans), 2), np.float32)
        first = 0
        for windows in _some_at_a_time(self._cutter.windows(document), self.batch_size):
            around = batch_context(model, context, range(first, first + len(windows)))
            fill_probabilities(out, windows, run_windows(model, windows, around, pad_id=pad))
            first += len(windows)
            task.advance(windows[-1].stop - windows[0].first)
        config = model.config
        spans = find_spans(document, out, config.threshold, config.max_phrase_words)
        return Tagged(document=document, probabilities=out, spans=spans)


def load_tagger(directory: Path) -> KeyphraseModel:
    """A tagger from its directory, float32.

    Raises:
        HydraHeadError: Weights are missing or damaged.
    """
    mend = "make it again with hydrahead keyphrases train"
    try:
        with quiet_transformers():
            # What comes back depends on the flag, which its annotation does not say.
            model, report = cast(
                Any,
                KeyphraseModel.from_pretrained(
                    directory, dtype=torch.float32, output_loading_info=True
                ),
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise HydraHeadError(
            f"cannot be loaded ({lines[0]})", where=directory, mend=mend
        ) from error
    wrong = sorted([*report["missing_keys"], *report["unexpected_keys"]])
    if wrong:
        what = f"its weights do not fit its configuration ({wrong[0]})"
        raise HydraHeadError(what, where=directory, mend=mend)
    if model.config.expands and model.config.static_source != "encoder":
        model.static_words = load_words(directory)
    return model


def _some_at_a_time(windows: Iterator[Window], count: int) -> Iterator[list[Window]]:
    while some := list(islice(windows, count)):
        yield some
