# pyright: reportPrivateImportUsage=false
"""The step of an allocation: gates descend, multipliers ascend, weights have an AdamW of their own.

Gates and multipliers are stepped by Adam without weight decay: decay would pull log-odds to an even
chance and multipliers to no constraint. Their gradients are not clipped; Adam's step does not
depend on their size. Every step's gates and multipliers are kept, so that the history is complete
however often the run was interrupted.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hydrahead.training.optimiser import MasterAdamW
from hydrahead.transfer.allocation.gates import Gates
from hydrahead.transfer.allocation.ranks import sum_over_ranks_

_BETAS = (0.9, 0.95)
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class GateOptimiser:
    """A `StepOptimiser` over gates, and over weights where those train too.

    Args:
        gates: What is learned.
        num_steps: Of the whole run, for the history.
        weights: The optimiser of the weights; None leaves them frozen.

    Attributes:
        history: [steps + 1, rows, columns]: what units are ranked by, before and after every step.
    """

    def __init__(self, gates: Gates, *, num_steps: int, weights: MasterAdamW | None) -> None:
        self._gates = gates
        self._weights = weights
        self._groups = [dict(group) for group in gates.parameter_groups()]
        self._rates = [float(group["lr"]) for group in self._groups]
        named = {id(p): name for name, p in gates.named_parameters()}
        self._named: dict[str, nn.Parameter] = {
            named[id(p)]: p for group in self._groups for p in group["params"]
        }
        groups: list[dict[str, Any]] = self._groups
        self._adam = torch.optim.AdamW(groups, betas=_BETAS, weight_decay=0.0)
        self._done = 0
        rows, columns = gates.openness.shape
        self.history = torch.zeros(num_steps + 1, rows, columns)
        self.history[0] = gates.openness.cpu()
        self._trace = torch.zeros(num_steps + 1, self._numbers().numel())

    @property
    def multipliers(self) -> Tensor:
        """[steps + 1, k]: every other number the gates learn, in the order of their names."""
        return self._trace

    def gather(self) -> None:
        """Gates are float32 and hold their own gradients."""
        if self._weights is not None:
            self._weights.gather()

    def totals(self, numbers: Tensor) -> Tensor:
        """The numbers, summed over the processes."""
        total = numbers.clone()
        sum_over_ranks_([total])
        return total

    def gradient_norm(self) -> Tensor:
        """Of everything that trains, after adding up over the processes."""
        sum_over_ranks_(self._gradients())
        if self._weights is not None:
            sum_over_ranks_(self._weights.gradients())
        norms = [torch.linalg.vector_norm(gradient) for gradient in self._gradients()]
        if self._weights is not None:
            norms.append(self._weights.gradient_norm())
        return torch.linalg.vector_norm(torch.stack(norms))

    def scale_and_clip(self, weight: float, norm: float) -> None:
        """Divide by the number of targets; only the weights' gradient is clipped."""
        torch._foreach_mul_(self._gradients(), 1.0 / weight)
        if self._weights is not None:
            self._weights.scale_and_clip(weight, float(self._weights.gradient_norm()))

    def step(self, lr: float) -> None:
        """One step of all; `lr` is that of the weights."""
        factor = self._gates.rate(self._done)
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self._gates.constrain_()
        if self._weights is not None:
            self._weights.step(lr)
        self._done += 1
        self.history[self._done] = self._gates.openness.cpu()
        self._trace[self._done] = self._numbers()

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters, and state with the history."""
        masters: dict[str, Tensor] = {f"gates.{n}": p.detach() for n, p in self._named.items()}
        state: dict[str, Tensor] = {
            "steps_done": torch.tensor(self._done),
            "history": self.history,
            "multipliers": self._trace,
        }
        for name, parameter in self._named.items():
            for key, value in self._adam.state.get(parameter, {}).items():
                state[f"{key}.gates.{name}"] = value
        if self._weights is not None:
            more, moments = self._weights.tensors()
            masters |= {f"weights.{name}": value for name, value in more.items()}
            state |= {f"weights.{name}": value for name, value in moments.items()}
        return masters, state

    @torch.no_grad()
    def load(self, masters: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        for name, parameter in self._named.items():
            parameter.copy_(masters[f"gates.{name}"])
            keys = [key for key in _MOMENTS if f"{key}.gates.{name}" in state]
            device = parameter.device
            moments = {key: state[f"{key}.gates.{name}"] for key in keys}
            self._adam.state[parameter] = {
                # Adam keeps its step on the CPU unless it is fused.
                key: value if key == "step" else value.to(device)
                for key, value in moments.items()
            }
        self._done = int(state["steps_done"])
        self.history.copy_(state["history"])
        self._trace.copy_(state["multipliers"])
        if self._weights is not None:
            self._weights.load(_under(masters, "weights."), _under(state, "weights."))

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._named.values() if p.grad is not None]

    def _numbers(self) -> Tensor:
        """Whatever the gates learn beside one number per unit."""
        ranked = self._gates.openness.data_ptr()
        rest = [p.detach().reshape(-1) for p in self._named.values() if p.data_ptr() != ranked]
        return torch.cat(rest).cpu() if rest else torch.zeros(0)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
