# pyright: reportPrivateImportUsage=false
"""AdamW that keeps float32 masters of every parameter computed in a narrower dtype.

Round-to-nearest drops any update below half a unit in the last place, and Adam's step is at most
about lr, so a bfloat16 parameter w stands still once |w| > lr * 2^8: gates and fusion scalars
trained in place stop at the next power of two (specs: the 8B Infini-attention gates). Here a
bfloat16 parameter is only a copy of its master; a float32 parameter is its own master and is
stepped directly.

Everything works on lists of parameters, one tensor each, nothing is flattened: sharded (DTensor)
parameters pass through as they are.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hydrahead.training.config import TrainConfig

UNDECAYED_NAMES = ("gates", "output_gate", "fusion", "conv", "decay")
"""A parameter whose dotted name has one of these parts is never decayed."""

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def is_decayed(
    name: str, parameter: Tensor, owner: nn.Module | None, *, decay_embeddings: bool
) -> bool:
    """Whether weight decay applies: to matrices, never to norms, biases, gates, fusion scalars."""
    if parameter.ndim < 2:
        return False
    parts = name.split(".")
    if any(part in UNDECAYED_NAMES or "norm" in part for part in parts):
        return False
    return decay_embeddings or not isinstance(owner, nn.Embedding)


def named_trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that require a gradient, each once (tied ones under their first name)."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


class MasterAdamW:
    """AdamW over float32 masters. `step` reads gradients from the parameters and clears them.

    Args:
        model: Whose trainable parameters are stepped.
        config: Rates, betas, decay and clipping.
        lr_scales: Parameter name -> what its learning rate is multiplied by; 1 where there is none.
    """

    def __init__(
        self, model: nn.Module, config: TrainConfig, lr_scales: Mapping[str, float] | None = None
    ) -> None:
        named = named_trainable(model)
        assert named, "nothing to train"
        owners = {
            id(p): module for module in model.modules() for p in module.parameters(recurse=False)
        }
        self.names: list[str] = [name for name, _ in named]
        self._parameters: list[nn.Parameter] = [p for _, p in named]
        self._masters: list[Tensor] = [_master_of(p) for p in self._parameters]
        self._gradients: list[Tensor | None] = [None] * len(named)
        decayed = [
            is_decayed(name, p, owners.get(id(p)), decay_embeddings=config.decay_embeddings)
            for name, p in named
        ]
        scales = [(lr_scales or {}).get(name, 1.0) for name, _ in named]
        members: dict[tuple[bool, float], list[Tensor]] = {}
        for master, flag, scale in zip(self._masters, decayed, scales, strict=True):
            members.setdefault((flag, scale), []).append(master)
        # Decay is decoupled but multiplied by the rate; a scaled rate must not scale it as well.
        groups = [
            {
                "params": masters,
                "weight_decay": config.weight_decay / scale if flag else 0.0,
                "lr_scale": scale,
            }
            for (flag, scale), masters in sorted(members.items(), key=lambda item: not item[0][0])
        ]
        self.adamw = torch.optim.AdamW(
            groups,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            fused=True,
        )
        self._clip = config.clip

    @property
    def _pairs(self) -> list[tuple[nn.Parameter, Tensor]]:
        pairs = zip(self._parameters, self._masters, strict=True)
        return [(p, m) for p, m in pairs if p is not m]

    def gather(self) -> None:
        """Add the narrow gradients to the float32 ones; call after every micro-batch."""
        for parameter, master in self._pairs:
            if parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = parameter.grad.to(master.dtype)
            else:
                master.grad += parameter.grad
            parameter.grad = None

    def totals(self, numbers: Tensor) -> Tensor:
        """The numbers as they are: one process trains."""
        return numbers

    def gradients(self) -> list[Tensor]:
        """The gathered gradients themselves, not copied."""
        return [m.grad for m in self._masters if m.grad is not None]

    def gradient_norm(self) -> Tensor:
        """Global norm of the gathered gradients."""
        gradients = self.gradients()
        assert gradients, "the loss reached no trainable parameter"
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def scale_and_clip(self, weight: float, norm: float) -> None:
        """Divide the summed gradients by `weight`, then clip; `norm` is theirs before that."""
        factor = 1.0 / weight
        if self._clip is not None:
            factor *= min(1.0, self._clip / (norm / weight + 1e-6))
        torch._foreach_mul_(self.gradients(), factor)

    def step(self, lr: float) -> None:
        """One AdamW step at `lr`; narrow parameters become copies of their masters."""
        for group in self.adamw.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the narrow parameters."""
        pairs = self._pairs
        if pairs:
            torch._foreach_copy_([p for p, _ in pairs], [m for _, m in pairs])

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(masters by parameter name, optimiser state by "moment.name"), not copied."""
        masters = {n: m.detach() for n, m in zip(self.names, self._masters, strict=True)}
        state: dict[str, Tensor] = {}
        for name, master in zip(self.names, self._masters, strict=True):
            for key, value in self.adamw.state.get(master, {}).items():
                state[f"{key}.{name}"] = value
        return masters, state

    @torch.no_grad()
    def load(self, masters: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        """Take over saved masters and optimiser state; shapes and names must agree."""
        for name, master in zip(self.names, self._masters, strict=True):
            master.copy_(masters[name])
            keys = [key for key in _MOMENTS if f"{key}.{name}" in state]
            if keys:
                moments = {key: state[f"{key}.{name}"].to(master.device) for key in keys}
                self.adamw.state[master] = moments
        self.publish()


def _master_of(parameter: nn.Parameter) -> Tensor:
    if parameter.dtype in (torch.float32, torch.float64):
        return parameter
    return parameter.detach().to(torch.float32).clone().requires_grad_()
