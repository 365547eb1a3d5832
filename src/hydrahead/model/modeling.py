"""The hybrid as a transformers model: a Llama-shaped decoder whose attention is a plan's mixers.

Norms, MLP and rotary embedding are those of Llama, which Qwen3, Qwen2, Llama and Mistral share
numerically; what differs between the families (biases, per-head norms, rope scaling, windows) is in
the configuration and the plan. An all-full plan computes what the teacher's own class computes.
"""

from collections.abc import Callable
from typing import Any, ClassVar, cast

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.generation.utils import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from hydrahead.core.errors import HydraHeadError, unknown_name
from hydrahead.mixers.contract import MixContext, MixerState
from hydrahead.mixers.projections import RMSNorm, rope_tables
from hydrahead.mixers.softmax import implementations
from hydrahead.mixers.tap_point import TapPoint
from hydrahead.model.adapters import require_adapter
from hydrahead.model.attention import HydraAttention
from hydrahead.model.cache import HydraCache, prepare_cache, require_hydra_cache
from hydrahead.model.cache_name import CACHE_NAME, CACHE_NAMES, one_cache
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.context import build_context
from hydrahead.model.fp32 import FP32_MODULES, apply_keeping_fp32, reset_new_parameters
from hydrahead.model.scaled import FinalNorm, ScaledEmbedding, ScaledMLP
from hydrahead.plan.head_plan import HeadPlan


class HalvesRotaryEmbedding(LlamaRotaryEmbedding):
    """Llama's rotary embedding (with every kind of scaling), as our `apply_rope` takes it.

    The name must hold "RotaryEmbedding": transformers then makes the frequencies when it loads.
    """

    def forward(
        self, x: Tensor, position_ids: Int[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t e"], Float[Tensor, "b t e"]]:
        """(cos, sin) in the dtype of `x`."""
        return rope_tables(*super().forward(x, position_ids))


class HydraLayer(GradientCheckpointingLayer):
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: HydraConfig, plan: HeadPlan, layer: int) -> None:
        super().__init__()
        self.self_attn = HydraAttention(config, plan, layer)
        self.mlp = ScaledMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.residual_in_tap = TapPoint()
        self.attention_input_tap = TapPoint()
        self.attention_output_tap = TapPoint()
        self.residual_out_tap = TapPoint()

    def forward(
        self,
        hidden: Float[Tensor, "b t d"],
        context: MixContext,
        states: list[MixerState] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], list[MixerState] | None]:
        """The block's output, and the next states (None if none were given)."""
        hidden = self.residual_in_tap(hidden)
        normed = self.attention_input_tap(self.input_layernorm(hidden))
        attended, next_states = self.self_attn(normed, context, states)
        hidden = hidden + self.attention_output_tap(attended)
        hidden = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return self.residual_out_tap(hidden), next_states


class HydraPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of hybrids."""

    config: HydraConfig
    config_class = HydraConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _is_stateful = True
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False
    _no_split_modules: ClassVar[list[str]] = ["HydraLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = list(CACHE_NAMES)
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = list(FP32_MODULES)

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: str | None, *args: Any, **kwargs: Any
    ) -> str:
        """Sdpa or eager, as asked; anything else is refused rather than replaced."""
        if attn_implementation is None:
            return "sdpa"
        if attn_implementation not in implementations():
            raise unknown_name("attn_implementation", attn_implementation, implementations())
        return attn_implementation

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        reset_new_parameters(module)

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> "HydraPreTrainedModel":
        return cast(
            HydraPreTrainedModel, apply_keeping_fp32(self, super()._apply, fn, recurse=recurse)
        )


class HydraModel(HydraPreTrainedModel):
    """The decoder without its output layer."""

    def __init__(self, config: HydraConfig) -> None:
        super().__init__(config)
        plan = config.head_plan
        _require_matching(config, plan)
        self.embed_tokens = ScaledEmbedding(config)
        self.layers = nn.ModuleList(
            HydraLayer(config, plan, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = FinalNorm(config)
        self.rotary_emb = HalvesRotaryEmbedding(cast(Any, config))
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "b t"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "b t d"] | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states after the last norm.

        Args:
            input_ids: token ids; or give `inputs_embeds`.
            attention_mask: [b, cached + t], 0 at padding; None when there is none.
            position_ids: positions within each document. Without mask and cache, positions that do
            not go
                up by one start a new document (packed rows).
            past_key_values: a `HydraCache`; it is changed.
            inputs_embeds: embeddings in place of `input_ids`, as `embed_tokens` gives them.
            use_cache: whether to return a cache. None is the configuration's choice, but never in
            training
                or when `position_ids` are given, since rows may then be packed.
            output_hidden_states: also return the input of every block and the final output.
            cache: `past_key_values` under the name it has since transformers 5.24.

        Raises:
            HydraHeadError: a foreign cache, a mask or positions that cannot be, packed rows with a
            cache.
        """
        _refuse_unknown(kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise HydraHeadError("give input_ids or inputs_embeds, one of the two")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        assert inputs_embeds is not None
        cache = self._cache(one_cache(past_key_values, cache), use_cache, position_ids)
        context = build_context(
            inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past=cache,
            rotary=self.rotary_emb,
            attn_implementation=self.config._attn_implementation or "sdpa",
        )
        hidden = inputs_embeds
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        seen: list[Tensor] = []
        if cache is not None:
            cache.begin(lambda rows, capacity: self.init_states(rows, capacity=capacity), context)
        for index, layer in enumerate(self.layers):
            if output_hidden_states:
                seen.append(hidden)
            states = None if cache is None else cache.states[index]
            hidden, next_states = layer(hidden, context, states)
            if cache is not None:
                cache.states[index] = next_states
        if cache is not None:
            cache.finish(context, padded=context.padded, plain=context.plain)
        hidden = self.norm(hidden)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            hidden_states=(*seen, hidden) if output_hidden_states else None,
            **{CACHE_NAME: cast(Any, cache)},
        )

    def init_states(self, batch: int, *, capacity: int | None = None) -> list[list[MixerState]]:
        """Empty states of every layer, on the device and in the dtype of that layer."""
        return [
            layer.self_attn.init_states(
                batch,
                capacity=capacity,
                device=layer.input_layernorm.weight.device,
                dtype=layer.input_layernorm.weight.dtype,
            )
            for layer in cast(list[HydraLayer], list(self.layers))
        ]

    def _cache(
        self, given: object, use_cache: bool | None, position_ids: Tensor | None
    ) -> HydraCache | None:
        if given is not None:
            require_hydra_cache(given)
            return cast(HydraCache, given)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and position_ids is None
        return HydraCache() if use_cache else None


class HydraForCausalLM(HydraPreTrainedModel, GenerationMixin):
    """The hybrid language model."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: HydraConfig) -> None:
        super().__init__(config)
        self.model = HydraModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def add_adapter(self, adapter_config: Any, adapter_name: str | None = None) -> None:
        """As in transformers, but targets that an exported checkpoint would lose are refused.

        Raises:
            HydraHeadError: see `hydrahead.model.adapters.require_adaptable`.
        """
        require_adapter(self, adapter_config)
        super().add_adapter(adapter_config, adapter_name)

    def forward(
        self,
        input_ids: Int[Tensor, "b t"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "b t d"] | None = None,
        labels: Int[Tensor, "b t"] | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Next-token logits, and the loss where labels are given.

        The other arguments are those of `HydraModel.forward`.

        Args:
            labels: as transformers has them: the tokens themselves (shifted here), -100 where none
            counts.
            logits_to_keep: logits of only the last so many tokens (0: all), or of these token
            indices.
            return_dict: False returns a tuple.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=False if use_cache is None and labels is not None else use_cache,
            output_hidden_states=output_hidden_states,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items,
            )
        result = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
        )
        return result.to_tuple() if return_dict is False else result

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """Hand `generate` a `HydraCache` (the one place where its cache is chosen)."""
        given = model_kwargs.get(CACHE_NAME)
        implementation = generation_config.cache_implementation
        if given is not None:
            require_hydra_cache(given)
            if implementation is not None:
                raise HydraHeadError(
                    f"both {CACHE_NAME} and cache_implementation are given",
                    mend="give one of them",
                )
            given._is_user_defined = True
            return
        if generation_config.use_cache is False:
            return
        wanted = getattr(generation_config, "max_cache_len", None) or 0
        model_kwargs[CACHE_NAME] = prepare_cache(implementation, max(max_cache_length, wanted))


def _require_matching(config: HydraConfig, plan: HeadPlan) -> None:
    geometry = plan.geometry
    pairs = {
        "num_hidden_layers": geometry.num_layers,
        "num_attention_heads": geometry.num_q_heads,
        "num_key_value_heads": geometry.num_kv_heads,
        "head_dim": geometry.head_dim,
        "hidden_size": geometry.hidden_size,
    }
    for name, expected in pairs.items():
        if getattr(config, name) != expected:
            raise HydraHeadError(
                f"the plan is for {name}={expected}, the model has {getattr(config, name)}",
                where=config.name_or_path or None,
                mend="make a plan for this model's geometry",
            )


def _refuse_unknown(kwargs: dict[str, Any]) -> None:
    """Arguments that would change the result must not be ignored."""
    harmless = {"return_dict", "cache_position"}
    asked = sorted(
        name
        for name, value in kwargs.items()
        if name not in harmless and value is not None and value is not False
    )
    if asked:
        raise HydraHeadError(
            f"a hybrid's forward does not know {', '.join(asked)}",
            mend="read activations through hydrahead.model.taps; attention weights are not kept",
        )


__all__ = ["HydraForCausalLM", "HydraLayer", "HydraModel", "HydraPreTrainedModel"]
