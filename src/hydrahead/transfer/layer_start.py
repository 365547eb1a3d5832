"""How a layer's mixers start: from the teacher's projections, or from twins.

`convert` writes the result to disk; `allocate` puts it beside the teacher's own attention.
"""

from typing import cast

import torch

from hydrahead.core.seeds import derive_seed
from hydrahead.mixers.contract import HeadMixer, ParallelMixer
from hydrahead.model.attention import HydraAttention
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.families.teacher import Teacher
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.transfer.calibrate import HeadSizes
from hydrahead.transfer.twins import Twins


class LayerStart:
    """Attention layers of a plan as they start, on the CPU; the output projection is not set.

    Args:
        teacher: An open teacher.
        config: Sizes of the model.
        plan: For the teacher's geometry.
        twins: Checked with `Twins.require`; None starts everything from the teacher.
        sizes: Measured sizes of the heads, for the fusion scalars.
        seed: For parameters that start at random.
        dtype: Of the parameters; None is the teacher's.
    """

    def __init__(
        self,
        teacher: Teacher,
        config: HydraConfig,
        plan: HeadPlan,
        *,
        twins: Twins | None,
        sizes: HeadSizes | None = None,
        seed: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._teacher = teacher
        self._config = config
        self._plan = plan
        self._twins = twins
        self._sizes = sizes
        self._seed = seed
        self._dtype = dtype or teacher.dtype

    def attention(self, layer: int) -> HydraAttention:
        """One layer; reads the teacher's tensors of that layer only."""
        attention = _new_attention(self._config, self._plan, layer, self._dtype, self._seed)
        heads = self._teacher.heads(layer)
        assignments = self._plan.layer_mixers(layer)
        mixers = cast(list[HeadMixer], list(attention.mixers))
        for mixer, assignment in zip(mixers, assignments, strict=True):
            twin = None if self._twins is None else self._twins.find(layer, assignment)
            if self._twins is not None and twin is not None:
                self._twins.fill(mixer, twin)
            else:
                mixer.init_from_teacher(heads.cut(assignment))
        self._fill_parallel(attention, layer)
        self._set_gamma(attention, layer)
        return attention

    def _fill_parallel(self, attention: HydraAttention, layer: int) -> None:
        """The teacher's own parallel mixers as they are; the plan's others start as nothing."""
        own = len(self._plan.geometry.parallel)
        prefix = f"model.layers.{layer}.self_attn."
        with torch.no_grad():
            for name, tensor in self._teacher.parallel(layer):
                attention.get_parameter(name.removeprefix(prefix)).copy_(tensor)
        for mixer in cast(list[ParallelMixer], list(attention.parallel)[own:]):
            mixer.init_beside_teacher()

    def _set_gamma(self, attention: HydraAttention, layer: int) -> None:
        fusion = attention.fusion
        if fusion is None:
            return
        measured = None if self._sizes is None else self._sizes.rms[layer]
        with torch.no_grad():
            for assignment in self._plan.layer_mixers(layer):
                slots = torch.tensor(assignment.q_slots)
                if not assignment.spec.normalise_output:
                    continue
                twin = None if self._twins is None else self._twins.find(layer, assignment)
                values = measured
                if values is None and self._twins is not None and twin is not None:
                    values = self._twins.gamma(layer)
                if values is not None:
                    fusion.gamma[slots] = values[slots]


def _new_attention(
    config: HydraConfig, plan: HeadPlan, layer: int, dtype: torch.dtype, seed: int
) -> HydraAttention:
    """The layer's attention on the CPU; random starts depend on seed and layer alone."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "convert", layer))
        torch.set_default_dtype(dtype)
        try:
            return HydraAttention(config, plan, layer)
        finally:
            torch.set_default_dtype(before)
