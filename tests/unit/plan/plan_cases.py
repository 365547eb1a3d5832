"""Geometries, specs and scores for the tests of the plan room."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan, LayerPlan
from hydrahead.plan.scores import HeadScores
from hydrahead.plan.specs.base import HeadShape, MixerSpec
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.lightning import LightningSpec
from hydrahead.plan.specs.window import WindowSpec

QWEN3_1_7B: dict[str, Any] = {
    "model_type": "qwen3",
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}


def qwen3_1_7b() -> ModelGeometry:
    return ModelGeometry.from_config(QWEN3_1_7B)


def geometry(
    *, layers: int = 3, kv_heads: int = 2, group: int = 2, windows: tuple[int | None, ...] = ()
) -> ModelGeometry:
    """A small model; `windows` as in `layer_windows`, all None by default."""
    return ModelGeometry(
        family="qwen3",
        num_layers=layers,
        num_q_heads=kv_heads * group,
        num_kv_heads=kv_heads,
        head_dim=8,
        hidden_size=32,
        intermediate_size=64,
        vocab_size=100,
        max_positions=512,
        layer_windows=windows or (None,) * layers,
        tie_word_embeddings=False,
    )


def scores_of(model: ModelGeometry, values: Any, secondary: Any = None) -> HeadScores:
    """Scores from nested lists [layer][q_head]."""
    return HeadScores(
        geometry=model,
        method="by hand",
        values=np.array(values, dtype=float),
        secondary=None if secondary is None else np.array(secondary, dtype=float),
    )


class ParallelSpec(MixerSpec, frozen=True):
    """A mixer that takes no slot; not in the table."""

    name: str = "parallel_for_tests"
    normalise_output: bool = False

    @property
    def takes_slots(self) -> bool:
        return False

    def kv_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        return 0

    def state_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        return 1000 * heads.num_heads

    def flops(self, heads: HeadShape, context: int) -> int:
        return 7


def _geometry_with(
    layers: int, kv_heads: int, group: int, windows: list[int | None]
) -> ModelGeometry:
    padded = (*windows, *(None for _ in range(layers)))
    return geometry(layers=layers, kv_heads=kv_heads, group=group, windows=padded[:layers])


_sizes = (st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
_windows = st.lists(st.one_of(st.none(), st.integers(1, 99)), max_size=3)
geometries = st.builds(_geometry_with, *_sizes, _windows)
geometries_with_a_free_layer = st.builds(
    _geometry_with, *_sizes, _windows.map(lambda windows: [None, *windows])
)
units = st.sampled_from(["kv_head", "q_head"])
specs = st.one_of(
    st.builds(
        FullSpec,
        rope=st.booleans(),
        qk_norm=st.booleans(),
        log_length_scale=st.one_of(st.none(), st.floats(1.5, 1000)),
        output_gate=st.booleans(),
        normalise_output=st.booleans(),
    ),
    st.builds(WindowSpec, window=st.integers(1, 10_000), sinks=st.integers(0, 16)),
    st.builds(
        GatedDeltaSpec,
        conv_size=st.integers(0, 6),
        expand_kv=st.booleans(),
        negative_eigenvalues=st.booleans(),
        chunk_size=st.sampled_from([1, 16, 64, 128]),
    ),
    st.builds(LightningSpec, expand_kv=st.booleans(), output_gate=st.booleans()),
)


@st.composite
def plans(draw: st.DrawFn) -> HeadPlan:
    """Any valid plan of table mixers."""
    model, unit = draw(geometries), draw(units)
    per_layer = model.units_per_layer(unit)
    palette = draw(st.lists(specs, min_size=1, max_size=3))
    layers = []
    for window in model.layer_windows:
        if window is None:
            row = draw(st.lists(st.sampled_from(palette), min_size=per_layer, max_size=per_layer))
        else:
            row = [WindowSpec(window=window, sinks=0)] * per_layer
        layers.append(LayerPlan(units=tuple(row)))
    return HeadPlan(geometry=model, unit=unit, layers=tuple(layers))


class ScoreCase(NamedTuple):
    """What scores are drawn from; built in the test, since run-time checks draw random numbers."""

    model: ModelGeometry
    seed: int
    levels: int
    has_secondary: bool

    def scores(self) -> HeadScores:
        """Scores with many ties."""
        shape = (self.model.num_layers, self.model.num_q_heads)
        generator = np.random.default_rng(self.seed)
        values = generator.integers(0, self.levels, shape)
        secondary = generator.integers(0, 3, shape) if self.has_secondary else None
        return scores_of(self.model, values, secondary)


score_cases = st.builds(
    ScoreCase,
    geometries_with_a_free_layer,
    st.integers(0, 10_000),
    st.integers(1, 6),
    st.booleans(),
)
