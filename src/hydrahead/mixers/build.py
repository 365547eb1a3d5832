"""From a plan's assignment to a module: looks the mixer up in the table and gives it its shape."""

from hydrahead.mixers.contract import HeadMixer, MixerShape, ParallelMixer
from hydrahead.plan.assignment import HeadGroup, MixerAssignment
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.table import mixer_class


def mixer_shape(
    groups: tuple[HeadGroup, ...],
    *,
    hidden_size: int,
    head_dim: int,
    num_q_heads: int,
    attention_bias: bool,
    qk_norm: bool,
    norm_eps: float,
    input_multiplier: float = 1.0,
    key_multiplier: float = 1.0,
) -> MixerShape:
    """The shape of a mixer that runs `groups` of a layer with these sizes."""
    return MixerShape(
        groups=groups,
        hidden_size=hidden_size,
        head_dim=head_dim,
        num_q_heads=num_q_heads,
        attention_bias=attention_bias,
        qk_norm=qk_norm,
        norm_eps=norm_eps,
        input_multiplier=input_multiplier,
        key_multiplier=key_multiplier,
    )


def build_mixer(spec: MixerSpec, shape: MixerShape) -> HeadMixer:
    """The module that runs `spec` on heads of this shape, with unset or default parameters.

    Raises:
        HydraHeadError: the table has no mixer of the spec's name.
    """
    return mixer_class(spec.name)(spec, shape)


def build_parallel(spec: MixerSpec, shape: MixerShape) -> ParallelMixer:
    """The module of a parallel mixer beside heads of this shape; raises as `build_mixer` does."""
    return mixer_class(spec.name)(spec, shape)


__all__ = ["HeadGroup", "MixerAssignment", "build_mixer", "build_parallel", "mixer_shape"]
