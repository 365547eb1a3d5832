"""The configuration of a keyphrase tagger: an encoder's own, and how it looks beyond a window."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig

from hydrahead.core.errors import HydraHeadError

ADDED_SHARE = 0.0025
"""Largest share of the encoder's parameters that a width chosen for the user may add."""
_WIDTH_STEP = 8
_WIDEST = 128
"""More than the paper's budget allows any of its encoders (specs: about 100 at d = 768)."""

Ranking = Literal["max", "mean", "sum"]
Join = Literal["concat", "add"]


@strict
class KeyphraseConfig(PreTrainedConfig):
    """Configuration of `KeyphraseModel`.

    Attributes:
        encoder: the encoder's own configuration.
        window_tokens: tokens of a window, special tokens included.
        neighbours: how many windows to each side are looked at; -1 is all, 0 is none (no
            expansion, a plain tagger).
        width: of the cross-attention, all its heads together.
        num_expansion_heads: heads that share the width.
        join: what is looked up is appended to a token's vector, or projected and added to it.
        static_source: where the static vectors came from (a file's name, or `encoder`).
        static_rows: rows of the table of static vectors.
        static_width: their width.
        train_static: whether training moved them.
        dropout: before the classifier, while training.
        threshold: probability of being inside a phrase from which on a word is; chosen on the
            validation split.
        ranking: how the scores of a phrase's occurrences become one.
        max_phrase_words: longer runs of tagged words are no phrase.
    """

    model_type = "hydrahead_keyphrase"
    # transformers makes __init__ take more than its signature says: no checker may bind to that.
    __no_type_check__ = True
    sub_configs: ClassVar[dict[str, Any]] = {"encoder": AutoConfig}

    encoder: PreTrainedConfig | dict | None = None
    window_tokens: int = 512
    neighbours: int = -1
    width: int = 32
    num_expansion_heads: int = 1
    join: str = "concat"
    static_source: str = "encoder"
    static_rows: int = 0
    static_width: int = 0
    train_static: bool = False
    dropout: float = 0.1
    threshold: float = 0.5
    ranking: str = "sum"
    max_phrase_words: int = 6
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        """Bring the encoder's configuration to its class; refuse what cannot be built."""
        if isinstance(self.encoder, dict):
            fields = dict(self.encoder)
            self.encoder = AutoConfig.for_model(fields.pop("model_type"), **fields)
        super().__post_init__(**kwargs)
        if self.width % self.num_expansion_heads:
            raise HydraHeadError(
                f"a width of {self.width} cannot be shared by {self.num_expansion_heads} heads",
                where="width",
                mend="choose a multiple of the number of heads",
            )
        if self.join not in ("concat", "add"):
            raise HydraHeadError(f"unknown join {self.join!r}", mend="known: concat, add")
        if self.neighbours < -1:
            raise HydraHeadError(
                f"{self.neighbours} neighbours", where="neighbours", mend="give 0 or more, or all"
            )

    @property
    def expands(self) -> bool:
        """Whether there is a cross-attention layer at all."""
        return self.neighbours != 0


def widest_affordable(
    *, encoder_parameters: int, hidden: int, static_width: int, join: str, heads: int
) -> int:
    """The largest width that adds at most `ADDED_SHARE` of the encoder's parameters.

    Counted are the three projections, and what the join needs on top of a plain tagger (3 more
    classifier columns per unit of width, or W_O back to the hidden size).

    Raises:
        HydraHeadError: Not even the smallest width fits.
    """
    joining = 3 if join == "concat" else hidden
    per_unit = hidden + 2 * static_width + joining
    step = _WIDTH_STEP * heads
    width = min(int(ADDED_SHARE * encoder_parameters / per_unit), _WIDEST) // step * step
    if width < step:
        raise HydraHeadError(
            f"the smallest width, {step}, adds more than {100 * ADDED_SHARE} % to an encoder of "
            f"{encoder_parameters} parameters",
            where="width",
            mend="choose a width yourself, for example --set width=16",
        )
    return width


__all__ = ["KeyphraseConfig"]
