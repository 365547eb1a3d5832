"""A teacher on disk, opened and checked: its sizes, and its tensors one layer at a time.

Two layouts are teachers: a checkpoint of a known family, and a directory of ours whose plan is
all-full. Opening checks every file, name, shape and dtype against config.json, so whatever follows
(loading, converting) can only fail on values (NaN), which are looked at as they are read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json
from hydrahead.mixers.build import build_parallel
from hydrahead.mixers.contract import TeacherHeads
from hydrahead.model.attention import attention_shape
from hydrahead.model.checkpoint import SafetensorsReader
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.families.all_full import foreign_mixer
from hydrahead.model.families.base import WeightNames
from hydrahead.model.families.table import family_of
from hydrahead.model.families.values import checked, read_hybrid_config
from hydrahead.plan.assignment import MixerAssignment
from hydrahead.plan.geometry import ModelGeometry

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

_HYBRID_NAMES = WeightNames(
    q="model.layers.{layer}.self_attn.mixers.0.projections.q",
    k="model.layers.{layer}.self_attn.mixers.0.projections.k",
    v="model.layers.{layer}.self_attn.mixers.0.projections.v",
    q_norm="model.layers.{layer}.self_attn.mixers.0.projections.q_norm",
    k_norm="model.layers.{layer}.self_attn.mixers.0.projections.k_norm",
)
_IGNORED = r"rotary_emb\.inv_freq$"
"""Buffers that old checkpoints carry; they follow from the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerHeads:
    """One layer's q, k and v for every head, in the teacher's slots."""

    weights: Mapping[str, Float[Tensor, "heads e d"]]
    biases: Mapping[str, Float[Tensor, "heads e"]]
    q_norm_weight: Float[Tensor, " e"] | None
    k_norm_weight: Float[Tensor, " e"] | None

    def cut(self, assignment: MixerAssignment) -> TeacherHeads:
        """The tensors of one mixer's groups, in mixer order."""
        slots = {"q": assignment.q_slots, "k": assignment.kv_slots, "v": assignment.kv_slots}
        index = {name: torch.tensor(rows) for name, rows in slots.items()}
        biases = {f"{name}_bias": bias[index[name]] for name, bias in self.biases.items()}
        return TeacherHeads(
            q_weight=self.weights["q"][index["q"]],
            k_weight=self.weights["k"][index["k"]],
            v_weight=self.weights["v"][index["v"]],
            q_norm_weight=self.q_norm_weight,
            k_norm_weight=self.k_norm_weight,
            **biases,
        )

    def named(self, names: WeightNames, layer: int) -> Iterator[tuple[str, Tensor]]:
        """The tensors as a checkpoint with `names` stores them."""
        for role, weight in self.weights.items():
            yield names.of(role, layer) + ".weight", weight.flatten(0, 1)
        for role, bias in self.biases.items():
            yield names.of(role, layer) + ".bias", bias.flatten()
        for role, weight in (("q_norm", self.q_norm_weight), ("k_norm", self.k_norm_weight)):
            if weight is not None:
                yield names.of(role, layer) + ".weight", weight


class Teacher:
    """An open teacher checkpoint.

    Attributes:
        config: The `HydraConfig` of the all-full hybrid, without its plan.
        geometry: The sizes a plan is made for.
        dtype: The dtype of its embeddings, which stands for the whole checkpoint.
    """

    def __init__(self, directory: Path, config: HydraConfig, names: WeightNames) -> None:
        self.directory = directory
        self.config = config
        self.geometry = ModelGeometry.from_pretrained(directory)
        self.reader = SafetensorsReader(directory)
        self._names = names
        self._source = embedding_sources(self.reader, config)
        self.reader.check(self._expected(), ignore=_IGNORED)
        self.dtype = self.reader.entry(self._source[EMBEDDING]).dtype
        config.dtype = self.dtype

    def outer_names(self) -> tuple[str, ...]:
        """Tensors outside the layers, by the name they have here."""
        return tuple(self._outer_shapes())

    def outer(self, name: str) -> Tensor:
        """One tensor outside the layers; checks it for NaN."""
        return self.reader.read(self._stored(name))

    def heads(self, layer: int) -> LayerHeads:
        """A layer's q, k and v; checks them for NaN."""
        names = {role: self._names.of(role, layer) for role in ("q", "k", "v")}
        width, hidden = self.config.head_dim, self.config.hidden_size
        norms: dict[str, Tensor | None] = {"q_norm": None, "k_norm": None}
        if self.config.qk_norm:
            norms = {
                role: self.reader.read(self._names.of(role, layer) + ".weight") for role in norms
            }
        return LayerHeads(
            weights={
                role: self.reader.read(f"{name}.weight").view(-1, width, hidden)
                for role, name in names.items()
            },
            biases={
                role: self.reader.read(f"{name}.bias").view(-1, width)
                for role, name in names.items()
                if self.config.attention_bias
            },
            q_norm_weight=norms["q_norm"],
            k_norm_weight=norms["k_norm"],
        )

    def rest(self, layer: int) -> Iterator[tuple[str, Tensor]]:
        """A layer's other tensors by the name they have here, one at a time; checks for NaN."""
        for name in self._rest_shapes(layer):
            yield name, self.reader.read(self._stored(name))

    def parallel(self, layer: int) -> Iterator[tuple[str, Tensor]]:
        """A layer's own parallel mixers, as `rest` gives the other tensors."""
        for name in self._parallel_shapes(layer):
            yield name, self.reader.read(self._stored(name))

    def _stored(self, name: str) -> str:
        return self._names.stored(self._source.get(name, name))

    def _expected(self) -> dict[str, tuple[int, ...]]:
        ours = self._outer_shapes()
        stored = {}
        if self.config.tie_word_embeddings and HEAD in self.reader:
            stored[HEAD] = ours[EMBEDDING]
        for layer in range(self.config.num_hidden_layers):
            stored |= self._heads_shapes(layer)
            ours |= self._rest_shapes(layer) | self._parallel_shapes(layer)
        return stored | {self._stored(name): shape for name, shape in ours.items()}

    def _outer_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.config
        embedding = (config.vocab_size, config.hidden_size)
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: embedding}
        if not config.tie_word_embeddings:
            shapes[HEAD] = embedding
        return shapes | {"model.norm.weight": (config.hidden_size,)}

    def _heads_shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        config = self.config
        num_q, num_kv = config.num_attention_heads, config.num_key_value_heads
        assert num_kv is not None
        shapes: dict[str, tuple[int, ...]] = {}
        for role, num in (("q", num_q), ("k", num_kv), ("v", num_kv)):
            name = self._names.of(role, layer)
            shapes |= _linear(
                name, num * config.head_dim, config.hidden_size, config.attention_bias
            )
        if config.qk_norm:
            for role in ("q_norm", "k_norm"):
                shapes[self._names.of(role, layer) + ".weight"] = (config.head_dim,)
        return shapes

    def _parallel_shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for index, spec in enumerate(self.geometry.parallel):
            with torch.device("meta"):
                mixer = build_parallel(spec, attention_shape(self.config, ()))
            prefix = f"model.layers.{layer}.self_attn.parallel.{index}."
            shapes |= {prefix + name: tuple(p.shape) for name, p in mixer.named_parameters()}
        return shapes

    def _rest_shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        config, prefix = self.config, f"model.layers.{layer}."
        hidden, inner = config.hidden_size, config.intermediate_size
        mixed = config.num_attention_heads * config.head_dim
        return {
            f"{prefix}input_layernorm.weight": (hidden,),
            **_linear(f"{prefix}self_attn.o_proj", hidden, mixed, config.attention_output_bias),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
            **_linear(f"{prefix}mlp.gate_proj", inner, hidden, config.mlp_bias),
            **_linear(f"{prefix}mlp.up_proj", inner, hidden, config.mlp_bias),
            **_linear(f"{prefix}mlp.down_proj", hidden, inner, config.mlp_bias),
        }


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model directory.

    Raises:
        HydraHeadError: it is missing or not a JSON object.
    """
    path = directory / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise HydraHeadError("not a JSON object", where=path, mend="fetch config.json again")
    return config


def is_hybrid(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of ours."""
    return config.get("model_type") == HydraConfig.model_type


def open_teacher(directory: Path) -> Teacher:
    """Open a checkpoint of a known family, or an all-full directory of ours.

    Raises:
        HydraHeadError: an unknown architecture, an unsupported option, missing or damaged weights,
            or a hybrid that is not all-full.
    """
    config = read_config(directory)
    where = directory / "config.json"
    if not is_hybrid(config):
        family = family_of(config, where=where)
        hydra = HydraConfig(**family.to_hydra(config, where=where))
        return Teacher(directory, checked(hydra, where=where), family.weights)
    hybrid = read_hybrid_config(config, where=where)
    reason = foreign_mixer(hybrid.head_plan)
    if reason:
        raise HydraHeadError(
            f"not a teacher: {reason}", where=where, mend="give the checkpoint it was made from"
        )
    return Teacher(directory, hybrid, _HYBRID_NAMES)


def _linear(name: str, rows: int, columns: int, bias: bool) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def embedding_sources(reader: SafetensorsReader, config: HydraConfig) -> dict[str, str]:
    """Which stored tensor is the embedding; settles `tie_word_embeddings` as transformers does.

    With tied embeddings a checkpoint may hold either name or both. Both with different values are
    not tied after all, whatever config.json says.
    """
    if config.tie_word_embeddings:
        if HEAD in reader and EMBEDDING not in reader:
            return {EMBEDDING: HEAD}
        if HEAD in reader and not reader.same(EMBEDDING, HEAD):
            config.tie_word_embeddings = False
    return {EMBEDDING: EMBEDDING}
