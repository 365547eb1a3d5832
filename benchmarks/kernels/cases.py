"""What the kernel benchmarks run on: shapes, inputs and the machine's description.

Few distinct shapes on purpose: Triton compiles and tunes anew for every number of heads, head_dim,
dtype and combination of options (a cold gated-delta forward and backward takes over a minute).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hydrahead.core.provenance import git_commit, library_versions
from hydrahead.kernels.backend import resolve
from hydrahead.kernels.gpu_stack import detect_stack
from hydrahead.kernels.kernel import KernelForm
from hydrahead.kernels.ssd.fast import ROUTES

HEADS = 4
"""q_heads of every case; the number of groups changes what the adapter does, not what compiles."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of one operation."""

    op: str
    form: str = "chunked"
    dtype: str = "bfloat16"
    head_dim: int = 128
    tokens: int = 65
    batch: int = 2
    groups: int = HEADS
    heads: int = HEADS
    value_dim: int | None = None
    """Width of a value where it is not head_dim (a state-space head: head_dim is the state's)."""
    route: str | None = None
    """One of `kernels.ssd.fast.ROUTES` in place of what the backend would take."""
    state: bool = True
    lengths: tuple[tuple[int, ...], ...] | None = None
    """Lengths of packed documents, per row."""
    padded: bool = False
    beta_range: float = 1.0

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch has it."""
        return getattr(torch, self.dtype)

    @property
    def needs_grad(self) -> bool:
        """Only the chunked forms have a backward."""
        return self.form == "chunked"

    def label(self) -> str:
        """A short name that tells the case."""
        parts = [self.op, self.form, self.dtype, f"e{self.head_dim}", f"t{self.tokens}"]
        parts += [f"g{self.heads // self.groups}"]
        parts += [f"v{self.value_dim}"] if self.value_dim else []
        parts += [self.route] if self.route else []
        parts += ["state"] if self.state else []
        parts += ["docs"] if self.lengths else []
        parts += ["padded"] if self.padded else []
        parts += ["neg"] if self.beta_range > 1 else []
        return " ".join(parts)

    def settings(self) -> dict[str, Any]:
        """For the JSON file."""
        return asdict(self)


def inputs(case: Case, device: torch.device, seed: int = 0) -> dict[str, Tensor]:
    """Named arguments of the kernel; q, k, v in the case's dtype, gates and state in fp32."""
    draw = torch.Generator(device=device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device=device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw, device=device)

    if case.op == "ssd":
        return _scan_inputs(case, normal, uniform)
    b, t, h, n, e = case.batch, case.tokens, case.heads, case.groups, case.head_dim
    unit = case.op == "gated_delta"
    q, k, v = normal(b, t, h, e), normal(b, t, n, e), normal(b, t, n, e)
    if unit:
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    found = {name: x.to(case.torch_dtype) for name, x in (("q", q), ("k", k), ("v", v))}
    if unit:
        # Memories of 1 to 1000 tokens.
        found["log_decay"] = -(10.0 ** (-3 * uniform(b, t, n)))
        found["beta"] = case.beta_range * uniform(b, t, n)
    else:
        found["log_decay"] = -torch.logspace(-3, 0, n, device=device)
    if case.state:
        found["initial_state"] = normal(b, n, e, e)
    return found


def _scan_inputs(
    case: Case, normal: Callable[..., Tensor], uniform: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """A state-space scan: q and k per group, values, decays and states per head."""
    b, t, h, n, e = case.batch, case.tokens, case.heads, case.groups, case.head_dim
    width = case.value_dim or e
    found = {"q": normal(b, t, n, e), "k": normal(b, t, n, e), "v": normal(b, t, h, width)}
    found = {name: (x / e**0.25).to(case.torch_dtype) for name, x in found.items()}
    # Memories of 1 to 1000 tokens.
    found["log_decay"] = -(10.0 ** (-3 * uniform(b, t, h)))
    if case.state:
        found["initial_state"] = normal(b, h, e, width)
    return found


def fast_form(case: Case, device: torch.device, *, needs_grad: bool) -> KernelForm:
    """What is measured: the backend's choice, or the route that the case names."""
    if case.route is not None:
        return ROUTES[case.route]
    kernel = resolve(case.op, device, case.torch_dtype, needs_grad=needs_grad, override="fast")
    return getattr(kernel, case.form)


def settings(case: Case, device: torch.device) -> dict[str, Any]:
    """The other arguments of the kernel."""
    found: dict[str, Any] = {"scale": case.head_dim**-0.5 if case.op == "lightning" else 1.0}
    if case.lengths is not None:
        rows = [[i for i, n in enumerate(row) for _ in range(n)] for row in case.lengths]
        found["documents"] = torch.tensor(rows, device=device)
    if case.padded:
        valid = torch.ones(case.batch, case.tokens, dtype=torch.bool, device=device)
        valid[0, : case.tokens // 3] = False
        valid[1, -2:] = False
        found["valid"] = valid
    return found


def environment(device: torch.device) -> Mapping[str, Any]:
    """Device, libraries and commit."""
    versions = library_versions()
    stack = detect_stack(device)
    return {
        "device": torch.cuda.get_device_name(device),
        "hopper": stack.hopper,
        "kernels": str(stack),
        "libraries": versions,
        "git_commit": git_commit(),
    }
