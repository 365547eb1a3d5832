"""`HeadScores`: how much every q_head of a model matters, by one method.

Scores are kept per q_head; a kv_head's score is the maximum over its group. On disk they are two
files: scores.json (what they are) and scores.npz (the arrays).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json, write_json
from hydrahead.core.records import refuse_other_kind
from hydrahead.core.seeds import numpy_generator
from hydrahead.plan.array_files import load_arrays, save_arrays
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.problems import is_object, validated

Floats = NDArray[np.float64]
Numbers = NDArray[Any]
"""Of any number type when given; float64 once it is in a `HeadScores`."""
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadScores:
    """A score per q_head, and what it was made from. Arrays are copied, float64 and read-only.

    Raises:
        HydraHeadError: an array of another shape, or with values that are not finite.
    """

    geometry: ModelGeometry
    method: str
    values: Numbers
    """[layer, q_head]; higher means full attention matters more."""
    secondary: Numbers | None = None
    """[layer, q_head]: orders heads whose `values` are equal."""
    probes: tuple[str, ...] = ()
    """Names of the probes of `per_probe`."""
    per_probe: Numbers | None = None
    """[probe, layer, q_head]: the breakdown of `values`."""
    kappa: Numbers | None = None
    """[layer, q_head] or [capability, layer, q_head]: consistency (arXiv 2606.20097, Eq. 11)."""
    extras: Mapping[str, Numbers] = field(default_factory=dict[str, Numbers])
    """Other arrays worth keeping, [..., layer, q_head], by name."""
    split_half_reliability: float | None = None
    """Spearman correlation of two halves of the probes over all heads."""
    split_half_non_zero: float | None = None
    """The same over heads with any effect at all."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How they were made; plain JSON."""

    def __post_init__(self) -> None:
        shape = (self.geometry.num_layers, self.geometry.num_q_heads)
        _freeze(self, "values", _checked("values", self.values, shape, {2}))
        for name, axes in (("secondary", {2}), ("per_probe", {3}), ("kappa", {2, 3})):
            array = getattr(self, name)
            _freeze(self, name, None if array is None else _checked(name, array, shape, axes))
        extras = {
            name: _checked(name, array, shape, range(2, 9)) for name, array in self.extras.items()
        }
        _freeze(self, "extras", extras)
        _freeze(self, "probes", tuple(self.probes))
        found = 0 if self.per_probe is None else len(self.per_probe)
        if self.per_probe is not None and found != len(self.probes):
            raise HydraHeadError(f"{len(self.probes)} probe names for {found} probes")

    @property
    def zero_fraction(self) -> float:
        """Share of q_heads whose score is exactly zero: their order is up to the tie-break."""
        return 1 - np.count_nonzero(self.values) / self.values.size

    def kv_head_values(self) -> Floats:
        """[layer, kv_head]: the maximum over each group."""
        return self.group_maximum(self.values)

    def group_maximum(self, values: Floats) -> Floats:
        """[..., layer, q_head] -> [..., layer, kv_head], the maximum over each group."""
        return values.reshape(*values.shape[:-1], self.geometry.num_kv_heads, -1).max(axis=-1)

    def save(self, directory: Path) -> None:
        """Write scores.json and scores.npz into `directory`, which exists."""
        save_arrays(directory / "scores.npz", self._arrays())
        write_json(
            directory / "scores.json",
            {
                "format_version": FORMAT_VERSION,
                "method": self.method,
                "geometry": self.geometry.model_dump(mode="json"),
                "probes": list(self.probes),
                "zero_fraction": self.zero_fraction,
                "split_half_reliability": self.split_half_reliability,
                "split_half_non_zero": self.split_half_non_zero,
                "settings": dict(self.settings),
            },
        )

    @classmethod
    def load(cls, directory: str | Path) -> "HeadScores":
        """Read what `save` wrote.

        Raises:
            HydraHeadError: a missing, damaged or foreign file, or arrays that do not fit.
        """
        wanted = "give what score or allocate wrote"
        refuse_other_kind(directory, ("scores", "allocation"), mend=wanted)
        if Path(directory).is_file():
            raise HydraHeadError("a file, not scores", where=directory, mend=wanted)
        path = Path(directory) / "scores.json"
        data = read_json(path)
        if not is_object(data) or data.get("format_version") != FORMAT_VERSION:
            raise HydraHeadError(
                f"is not a scores file of format {FORMAT_VERSION}", where=path, mend="score again"
            )
        stored = validated(_ScoresFile, data, where=str(path))
        geometry = ModelGeometry.from_dict(stored.geometry, where=path)
        arrays_path = path.with_name("scores.npz")
        arrays = load_arrays(arrays_path)
        try:
            if "values" not in arrays:
                raise HydraHeadError("holds no array 'values'")
            return cls(
                geometry=geometry,
                method=stored.method,
                values=arrays["values"],
                secondary=arrays.get("secondary"),
                probes=tuple(stored.probes),
                per_probe=arrays.get("per_probe"),
                kappa=arrays.get("kappa"),
                extras={
                    name.removeprefix(_EXTRA): array
                    for name, array in arrays.items()
                    if name.startswith(_EXTRA)
                },
                split_half_reliability=stored.split_half_reliability,
                split_half_non_zero=stored.split_half_non_zero,
                settings=stored.settings,
            )
        except HydraHeadError as error:
            raise HydraHeadError(error.what, where=arrays_path, mend="score again") from None

    def _arrays(self) -> dict[str, Floats]:
        named = {
            "values": self.values,
            "secondary": self.secondary,
            "per_probe": self.per_probe,
            "kappa": self.kappa,
        }
        kept = {name: array for name, array in named.items() if array is not None}
        return kept | {_EXTRA + name: array for name, array in self.extras.items()}


def random_scores(geometry: ModelGeometry, seed: int) -> HeadScores:
    """Uniform scores in [0, 1): the control that every scorer has to beat."""
    shape = (geometry.num_layers, geometry.num_q_heads)
    values = numpy_generator(seed, "random_scores").random(shape)
    return HeadScores(geometry=geometry, method="random", values=values, settings={"seed": seed})


_EXTRA = "extra."


class _ScoresFile(BaseModel, frozen=True, extra="forbid"):
    """The content of scores.json."""

    format_version: int
    method: str
    geometry: dict[str, Any]
    probes: list[str]
    zero_fraction: float
    split_half_reliability: float | None
    split_half_non_zero: float | None
    settings: dict[str, Any]


def _checked(
    name: str, array: ArrayLike, shape: tuple[int, int], axes: "set[int] | range"
) -> Floats:
    try:
        copy = np.array(array, dtype=np.float64)
    except (TypeError, ValueError):
        raise HydraHeadError(f"{name} holds something that is not a number") from None
    if copy.ndim not in axes or copy.shape[-2:] != shape:
        raise HydraHeadError(
            f"{name} has the shape {list(copy.shape)}, which is not (..., layer, q_head) of "
            f"{shape[0]} layers and {shape[1]} q_heads"
        )
    if not np.isfinite(copy).all():
        where = np.argwhere(~np.isfinite(copy))[0]
        raise HydraHeadError(f"{name} is not finite at {[int(i) for i in where]}")
    copy.setflags(write=False)
    return copy


def _freeze(scores: HeadScores, name: str, value: object) -> None:
    object.__setattr__(scores, name, value)
