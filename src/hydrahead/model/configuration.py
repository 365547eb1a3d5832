"""The configuration of a hybrid: one canonical decoder, and the plan of its heads.

Families are described by `model/families`; here every family has been brought to the same names
(those of Llama, plus `qk_norm` and `attention_output_bias`). `plan` is a `HeadPlan` as a JSON
object, `teacher_config` the `config.json` of the checkpoint the hybrid was made from, kept so that
`export` can write it back.

Invariants: `config.json` alone rebuilds the model; unknown rope types and plans for another
geometry are refused when the model is built, not when it runs.
"""

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from hydrahead.core.errors import HydraHeadError

if TYPE_CHECKING:
    from hydrahead.plan.head_plan import HeadPlan


@strict
class HydraConfig(PreTrainedConfig):
    """Configuration of `HydraForCausalLM`.

    Attributes:
        family: name of the checkpoint family it came from (a key of the family table).
        num_attention_heads: q_heads per layer.
        num_key_value_heads: kv_heads per layer; 0 is one per q_head.
        head_dim: width of a head; 0 is hidden_size / num_attention_heads.
        attention_bias: biases on the q, k and v projections; `attention_output_bias`: on W_o.
        qk_norm: the family normalises q and k per head before the rotation (Qwen3).
        embedding_multiplier, lm_head_multiplier: factors on the embeddings and on what the head
            reads (Falcon-H1; 1 elsewhere, like those below).
        attention_in_multiplier, attention_out_multiplier, key_multiplier: factors on what q, k and
            v are projected from, on W_o's output, and on k before the rotation.
        mlp_multipliers: factors on the gate before its activation, and on the MLP's output.
        rope_parameters: as transformers 5 writes them (`rope_type`, `rope_theta`, scaling fields).
        plan: the `HeadPlan` as a JSON object.
        fusion_calibrated: the fusion scalars hold measured values rather than the initial 1.
        teacher_config: the teacher's own `config.json`.
    """

    model_type = "hydrahead"
    # transformers makes __init__ take more than its signature says: no checker may bind to that.
    __no_type_check__ = True
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]

    family: str = "llama"
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 0
    head_dim: int = 0
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    tie_word_embeddings: bool = False
    rope_parameters: dict | None = None
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    embedding_multiplier: float = 1.0
    lm_head_multiplier: float = 1.0
    attention_in_multiplier: float = 1.0
    attention_out_multiplier: float = 1.0
    key_multiplier: float = 1.0
    mlp_multipliers: list[float] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    plan: dict | None = None
    fusion_calibrated: bool = False
    teacher_config: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill what follows from other fields; transformers then brings rope to its own form."""
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)

    @property
    def head_plan(self) -> "HeadPlan":
        """The plan, parsed and validated (parsed once per distinct plan).

        Raises:
            HydraHeadError: the configuration has no plan, or one that is not valid.
        """
        if not self.plan:
            raise HydraHeadError(
                "this configuration has no head plan",
                where=self.name_or_path or None,
                mend="set plan=json.loads(HeadPlan.all_full(geometry).to_json()), or run convert",
            )
        return _parse_plan(json.dumps(self.plan, sort_keys=True))


@lru_cache(maxsize=16)
def _parse_plan(text: str) -> "HeadPlan":
    from hydrahead.plan.head_plan import HeadPlan

    return HeadPlan.from_json(text)


__all__ = ["HydraConfig"]
