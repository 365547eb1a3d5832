"""Scale-normalised fusion (HydraHead, arXiv 2606.20097, Eq. 13-14).

    y_h = gamma_h * o_h / rms(o_h)        for the heads whose spec asks for it, y_h = o_h for the
    others

It brings heads of different mixers to one scale before the output projection. The norm has no
weight vector; gamma_h is one learned scalar per q_head, in fp32, 1 until it is calibrated to the
teacher's output RMS.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hydrahead.mixers.autocast import no_autocast

EPS = 1e-6


class Fusion(nn.Module):
    """Per-head scale normalisation of a layer's outputs in slot order.

    Args:
        normalised: for every q_head slot, whether its mixer asks for it.
    """

    def __init__(self, normalised: tuple[bool, ...]) -> None:
        super().__init__()
        self.normalised = normalised
        # Slots as runs of equal choice, so that slices do and no mask is needed.
        edges = [i for i in range(1, len(normalised)) if normalised[i] != normalised[i - 1]]
        stops = [*edges, len(normalised)]
        self._runs = [slice(start, stop) for start, stop in zip([0, *edges], stops, strict=True)]
        self.gamma = nn.Parameter(torch.ones(len(normalised), dtype=torch.float32))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Back to gamma = 1."""
        self.gamma.fill_(1.0)

    def forward(self, heads: Float[Tensor, "b t q e"]) -> Float[Tensor, "b t q e"]:
        """The heads at their learned scales, in the dtype they came in."""
        # All heads are scaled and some of them not used: fewer launches than run by run.
        with no_autocast(heads.device):
            normed = F.rms_norm(heads, heads.shape[-1:], eps=EPS)
            scaled = (normed * self.gamma[:, None]).to(heads.dtype)
        if len(self._runs) == 1:
            return scaled
        pieces = [
            (scaled if self.normalised[run.start] else heads)[:, :, run] for run in self._runs
        ]
        return torch.cat(pieces, dim=2)


def output_rms(heads: Float[Tensor, "b t q e"]) -> Float[Tensor, " q"]:
    """Root mean square of every head's output over tokens, in fp32: what gamma is calibrated to."""
    wide = heads.to(torch.promote_types(heads.dtype, torch.float32))
    return wide.square().mean(dim=(0, 1, 3)).sqrt()
