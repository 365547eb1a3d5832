"""The tagger as a transformers model: encoder, expansion, classifier.

A token's vector is [H ; Z] (join "concat") or H + Z W_O ("add"), with H the encoder's state and Z
what the expansion gathered; three classes O, B, I. With `neighbours` 0 there is no expansion and
the model is a plain tagger: the baseline of every comparison.
"""

import inspect
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModel
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.modeling_utils import PreTrainedModel

from hydrahead.core.errors import HydraHeadError
from hydrahead.keyphrase.configuration import KeyphraseConfig, widest_affordable
from hydrahead.keyphrase.documents import TAGS
from hydrahead.keyphrase.expansion import Expansion
from hydrahead.keyphrase.static_vectors import StaticEmbedding, save_words, standardised

NUM_CLASSES = len(TAGS)


class KeyphraseModel(PreTrainedModel):
    """BIO tagger with attention expansion.

    Attributes:
        static_words: Words of the static table in the order of its rows, if it came from a file;
            None if its rows are the encoder's tokens.
    """

    config: KeyphraseConfig
    config_class = KeyphraseConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = []

    def __init__(self, config: KeyphraseConfig, *, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.encoder = encoder if encoder is not None else _bare_encoder(config.encoder)
        hidden = self.encoder.config.hidden_size
        self.static_words: list[str] | None = None
        joined = hidden
        if config.expands:
            self.static = StaticEmbedding(
                config.static_rows, config.static_width, trainable=config.train_static
            )
            self.expansion = Expansion(
                hidden=hidden,
                static_width=config.static_width,
                width=config.width,
                heads=config.num_expansion_heads,
            )
            if config.join == "add":
                self.expansion_out = nn.Linear(config.width, hidden, bias=False)
            else:
                joined += config.width
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(joined, NUM_CLASSES)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "b t"] | None = None,
        attention_mask: Int[Tensor, "b t"] | None = None,
        word_positions: Int[Tensor, "b w"] | None = None,
        context_rows: Int[Tensor, "m s"] | None = None,
        context_log_counts: Float[Tensor, "b m"] | None = None,
        labels: Int[Tensor, "b w"] | None = None,
        encoded: Float[Tensor, "b w d"] | None = None,
        **unused: Any,
    ) -> TokenClassifierOutput:
        """Logits of the three classes (see `documents.TAGS`).

        Args:
            input_ids: One window per row.
            attention_mask: 0 on padding.
            word_positions: Where in a row each word's first token is; without it every token is
                classified.
            context_rows: Distinct words around the windows, as rows of the static table.
            context_log_counts: log of how often each stands around a window, -inf if it does not;
                without a context the expansion gives zero.
            labels: Classes; -100 is ignored. The loss is their mean cross-entropy.
            encoded: The encoder's states of the words, instead of `input_ids`.
        """
        del unused
        hidden = (
            self.encode(input_ids, attention_mask, word_positions) if encoded is None else encoded
        )
        logits = self.classify(hidden, context_rows, context_log_counts)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return TokenClassifierOutput(loss=loss, logits=logits)

    def encode(
        self,
        input_ids: Int[Tensor, "b t"] | None,
        attention_mask: Int[Tensor, "b t"] | None = None,
        word_positions: Int[Tensor, "b w"] | None = None,
    ) -> Float[Tensor, "b w d"]:
        """The encoder's last states, of the words' first tokens if told where they are."""
        assert input_ids is not None, "give input_ids or encoded"
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        states = output.last_hidden_state
        if word_positions is None:
            return states
        index = word_positions[..., None].expand(-1, -1, states.shape[-1])
        return states.gather(1, index)

    def classify(
        self,
        hidden: Float[Tensor, "b w d"],
        context_rows: Int[Tensor, "m s"] | None = None,
        context_log_counts: Float[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b w 3"]:
        """Logits from the encoder's states and the context."""
        if self.config.expands:
            hidden = self._join(hidden, self._gather(hidden, context_rows, context_log_counts))
        return self.classifier(self.dropout(hidden))

    def _gather(
        self,
        hidden: Float[Tensor, "b w d"],
        rows: Int[Tensor, "m s"] | None,
        log_counts: Float[Tensor, "b m"] | None,
    ) -> Float[Tensor, "b w width"]:
        if rows is None or log_counts is None:
            return hidden.new_zeros(*hidden.shape[:2], self.config.width)
        return self.expansion(hidden, self.static(rows).to(hidden.dtype), log_counts)

    def _join(
        self, hidden: Float[Tensor, "b w d"], gathered: Float[Tensor, "b w width"]
    ) -> Float[Tensor, "b w joined"]:
        if self.config.join == "add":
            return hidden + self.expansion_out(gathered)
        return torch.cat([hidden, gathered], dim=-1)

    @property
    def encoder_parameters(self) -> int:
        """Parameters of the encoder."""
        return sum(parameter.numel() for parameter in self.encoder.parameters())

    @property
    def added_parameters(self) -> int:
        """What the expansion adds to a plain tagger, static vectors not counted."""
        if not self.config.expands:
            return 0
        parts: list[nn.Module] = [self.expansion]
        if self.config.join == "add":
            parts.append(self.expansion_out)
        columns = self.classifier.in_features - self.encoder.config.hidden_size
        own = sum(parameter.numel() for part in parts for parameter in part.parameters())
        return own + NUM_CLASSES * columns

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write the model, and the words of its static table; `push_to_hub` goes through here."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.static_words is not None:
            save_words(Path(save_directory), self.static_words)


def build_model(
    encoder: PreTrainedModel,
    *,
    vectors: tuple[list[str], np.ndarray] | None = None,
    vectors_name: str = "encoder",
    width: int | None = None,
    **settings: Any,
) -> KeyphraseModel:
    """A tagger on an encoder; what is new in it is random.

    Args:
        encoder: A loaded encoder.
        vectors: Words and vectors of a file (see `static_vectors.read_vectors`); None takes the
            encoder's input embeddings as they are now.
        vectors_name: Where they came from, for the record.
        width: Of the expansion; None takes what fits `ADDED_SHARE`.
        settings: Further fields of `KeyphraseConfig`.

    Raises:
        HydraHeadError: No width fits, or settings contradict each other.
    """
    table = np.zeros((0, 0), np.float32)
    if settings.get("neighbours", -1) != 0:
        raw = _input_embeddings(encoder) if vectors is None else vectors[1]
        table = standardised(raw)
        width = width or widest_affordable(
            encoder_parameters=sum(p.numel() for p in encoder.parameters()),
            hidden=encoder.config.hidden_size,
            static_width=table.shape[1],
            join=settings.get("join", "concat"),
            heads=settings.get("num_expansion_heads", 1),
        )
    heads = settings.get("num_expansion_heads", 1)
    config = KeyphraseConfig(
        encoder=encoder.config.to_dict(),
        width=width or heads,
        static_source=vectors_name,
        static_rows=table.shape[0],
        static_width=table.shape[1],
        **settings,
    )
    model = KeyphraseModel(config, encoder=encoder)
    if config.expands:
        model.static.weight.data.copy_(torch.from_numpy(table))
        model.static_words = None if vectors is None else vectors[0]
    return model


def move(model: KeyphraseModel, device: str) -> None:
    """Bring a model to a device.

    Raises:
        HydraHeadError: There is no such device.
    """
    try:
        cast(nn.Module, model).to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        if "memory" in str(error):
            raise
        mend = "choose cpu or cuda"
        raise HydraHeadError(f"no device {device!r}", where="--device", mend=mend) from error


def _input_embeddings(encoder: PreTrainedModel) -> np.ndarray:
    embedding = cast(nn.Embedding, encoder.get_input_embeddings())
    return embedding.weight.detach().float().cpu().numpy()


def _bare_encoder(config: Any) -> PreTrainedModel:
    """An encoder from its configuration, without a pooling layer where that can be said."""
    kind = AutoModel._model_mapping[type(config)]
    kind = kind[0] if isinstance(kind, tuple) else kind
    has_pooler = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    return AutoModel.from_config(config, **({"add_pooling_layer": False} if has_pooler else {}))


__all__ = ["KeyphraseModel", "build_model", "move"]
