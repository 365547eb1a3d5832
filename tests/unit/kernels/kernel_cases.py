"""Inputs for the kernels, and the equations written out token by token, head by head, in fp64."""

import torch
import torch.nn.functional as F
from torch import Tensor

Inputs = dict[str, Tensor]


def gated_delta_inputs(
    batch: int = 2,
    tokens: int = 10,
    groups: int = 2,
    group_size: int = 2,
    width: int = 4,
    value_width: int | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    beta_range: float = 1.0,
    seed: int = 0,
) -> Inputs:
    """q, k, v, log_decay, beta, initial_state; every one wants a gradient."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    value_width = value_width or width
    inputs = {
        "q": F.normalize(normal(batch, tokens, groups * group_size, width), dim=-1),
        "k": F.normalize(normal(batch, tokens, groups, width), dim=-1),
        "v": normal(batch, tokens, groups, value_width),
        "log_decay": -0.5 * uniform(batch, tokens, groups),
        "beta": beta_range * uniform(batch, tokens, groups),
        "initial_state": normal(batch, groups, width, value_width),
    }
    return {name: x.to(dtype).requires_grad_() for name, x in inputs.items()}


def lightning_inputs(
    batch: int = 2,
    tokens: int = 10,
    groups: int = 2,
    group_size: int = 2,
    width: int = 4,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Inputs:
    """q, k, v, log_decay (one per group), initial_state."""
    inputs = gated_delta_inputs(batch, tokens, groups, group_size, width, dtype=dtype, seed=seed)
    del inputs["beta"]
    inputs["log_decay"] = -torch.linspace(0.02, 0.7, groups, dtype=dtype)
    return inputs


def ssd_inputs(
    batch: int = 2,
    tokens: int = 10,
    groups: int = 2,
    group_size: int = 2,
    width: int = 4,
    value_width: int = 3,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Inputs:
    """q and k per group, v, log_decay and initial_state per head; every one wants a gradient."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    heads = groups * group_size
    inputs = {
        "q": normal(batch, tokens, groups, width),
        "k": normal(batch, tokens, groups, width),
        "v": normal(batch, tokens, heads, value_width),
        "log_decay": -0.5 * torch.rand(batch, tokens, heads, generator=draw, dtype=torch.float64),
        "initial_state": normal(batch, heads, width, value_width),
    }
    return {name: x.to(dtype).requires_grad_() for name, x in inputs.items()}


def naive_ssd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    scale: float,
    initial_state: Tensor | None = None,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S_t = a_t S_{t-1} + k_t v_t^T, o_t = scale * S_t^T q_t, literally, head by head."""
    batch, tokens, heads, size = v.shape
    share = heads // q.shape[2]
    rows, states = [], []
    for row in range(batch):
        for head in range(heads):
            state = q.new_zeros(q.shape[-1], size)
            if initial_state is not None:
                state = initial_state[row, head]
            for t in range(tokens):
                if documents is not None and t > 0 and documents[row, t] != documents[row, t - 1]:
                    state = torch.zeros_like(state)
                key, value = k[row, t, head // share], v[row, t, head]
                state = log_decay[row, t, head].exp() * state + torch.outer(key, value)
                rows.append(scale * (state.T @ q[row, t, head // share]))
            states.append(state)
    out = torch.stack(rows).reshape(batch, heads, tokens, size).transpose(1, 2)
    return out, torch.stack(states).reshape(batch, heads, -1, size)


def naive_gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    *,
    scale: float,
    initial_state: Tensor | None = None,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T, o_t = scale * S_t^T q_t, literally."""
    batch, tokens, heads, width = q.shape
    groups = k.shape[2]
    outputs, states = [], []
    for row in range(batch):
        for group in range(groups):
            state = q.new_zeros(width, v.shape[-1])
            if initial_state is not None:
                state = initial_state[row, group]
            for t in range(tokens):
                if documents is not None and t > 0 and documents[row, t] != documents[row, t - 1]:
                    state = torch.zeros_like(state)
                key, value, b = k[row, t, group], v[row, t, group], beta[row, t, group]
                keep = torch.eye(width, dtype=q.dtype) - b * torch.outer(key, key)
                state = log_decay[row, t, group].exp() * (keep @ state)
                state = state + b * torch.outer(key, value)
                first = group * (heads // groups)
                for head in range(first, first + heads // groups):
                    outputs.append(((row, t, head), scale * (state.T @ q[row, t, head])))
            states.append(state)
    by_place = [output for _, output in sorted(outputs, key=lambda pair: pair[0])]
    out = torch.stack(by_place).reshape(batch, tokens, heads, -1)
    return out, torch.stack(states).reshape(batch, groups, width, -1)


def naive_lightning(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    scale: float,
    initial_state: Tensor | None = None,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """o_t = scale * (sum_{j<=t} a^(t-j) (q_t.k_j) v_j + a^(t+1) S_0^T q_t), over all pairs."""
    batch, tokens, heads, _ = q.shape
    groups = k.shape[2]
    k, v = (x.repeat_interleave(heads // groups, dim=2) for x in (k, v))
    decay = log_decay.repeat_interleave(heads // groups)
    ids = torch.zeros(batch, tokens, dtype=torch.long) if documents is None else documents
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)[None, :]
    seen = (ids[:, :, None] == ids[:, None, :]) & (distance >= 0)
    weights = (decay[:, None, None] * distance.clamp_min(0)).exp() * seen[:, None]
    out = torch.einsum("bthe,bshe,bhts,bshf->bthf", q, k, weights, v)
    tail = torch.einsum("bshe,bhs,bshf->bhef", k, weights[:, :, -1], v)
    if initial_state is not None:
        start = initial_state.repeat_interleave(heads // groups, dim=1)
        first = (ids == ids[:, :1]).to(q.dtype)
        age = torch.arange(1, tokens + 1)
        reach = (decay[:, None] * age).exp() * first[:, None]
        out = out + torch.einsum("bthe,bht,bhef->bthf", q, reach, start)
        tail = tail + reach[:, :, -1, None, None] * start
    return scale * out, tail[:, :: heads // groups]


def gradients(outputs: tuple[Tensor, Tensor], inputs: Inputs, seed: int = 7) -> dict[str, Tensor]:
    """Gradients of a fixed random projection of the outputs and the final state."""
    draw = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for output in outputs:
        weights = torch.randn(output.shape, generator=draw, dtype=torch.float64)
        total = total + (output.double() * weights).sum()
    wanted = {name: x for name, x in inputs.items() if x.requires_grad}
    found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(x) if gradient is None else gradient
        for (name, x), gradient in zip(wanted.items(), found, strict=True)
    }


def assert_same(
    ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], inputs: Inputs, tolerance: float
) -> None:
    """Outputs, final states and the gradients of every input agree."""
    for name, mine, other in zip(("out", "state"), ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance, msg=name)
    mine, other = gradients(ours, inputs), gradients(theirs, inputs)
    for name in mine:
        torch.testing.assert_close(
            mine[name], other[name], rtol=tolerance, atol=tolerance, msg=f"gradient of {name}"
        )
