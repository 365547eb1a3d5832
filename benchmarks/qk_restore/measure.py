"""What is measured on a model: recall by distance, task accuracy, attention and its gradients.

Answers are forced and every token has to be the model's first choice, which is exactly when greedy
decoding gives the answer.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hydrahead.mixers.attention_base import AttentionMixer
from hydrahead.tasks.codec import TextCodec
from hydrahead.tasks.table import build_task

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]


def exact(model: Any, pairs: Pairs, *, batch_size: int) -> list[float]:
    """Whether greedy decoding of each prompt gives its whole answer: 1 or 0."""
    return [float(all(right)) for right in right_tokens(model, pairs, batch_size=batch_size)]


def right_lines(right: Sequence[bool], answer: Sequence[int], newline: int) -> list[bool]:
    """Whether every token of a line is right, line by line; each line begins with its newline."""
    starts = [i for i, token in enumerate(answer) if token == newline]
    return [all(right[a:b]) for a, b in itertools.pairwise([*starts, len(answer)])]


@torch.no_grad()
def right_tokens(model: Any, pairs: Pairs, *, batch_size: int) -> list[list[bool]]:
    """Token by token of each answer: the model's first choice, given the right ones before it?"""
    device = model.lm_head.weight.device
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    found: list[list[bool]] = [[] for _ in pairs]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(pairs[i][0]) + len(pairs[i][1]) - 1 for i in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for row, i in enumerate(batch):  # padding on the right changes nothing before it
            whole = [*pairs[i][0], *pairs[i][1]][:-1]
            ids[row, : len(whole)] = torch.tensor(whole)
        hidden = model.model(input_ids=ids.to(device), use_cache=False).last_hidden_state
        for row, i in enumerate(batch):
            first, count = len(pairs[i][0]) - 1, len(pairs[i][1])
            said = model.lm_head(hidden[row, first : first + count]).argmax(-1).tolist()
            found[i] = [one == other for one, other in zip(said, pairs[i][1], strict=True)]
    return found


def recall_pairs(
    codec: TextCodec, task: str, *, length: int, distance: int, count: int, seed: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Prompts of `length` tokens whose needle lies about `distance` tokens before the answer."""
    built = build_task(task)
    samples = (
        built.sample(codec, length=length, seed=seed, index=i, depth=1 - distance / length)
        for i in range(count)
    )
    return [(sample.prompt_ids, sample.answer_ids) for sample in samples]


def attention_profile(
    model: Any, ids: Tensor, labels: Tensor, *, bins: Sequence[int]
) -> dict[str, Any]:
    """Attention and loss gradients of the full-attention heads, by distance.

    g(tau) is the mean over queries and q_heads of |dL / d logit[t, t - tau]|, L the mean loss per
    target, times the number of targets of a row: per token, whatever the batch (arXiv 2606.11052,
    4.6, in the notation of the notes on it). The gradient of the softmax is taken in closed form,
    A (dA - sum(A dA)) with dA = dO V^T, from recorded q, k, v and the gradient of the output.

    Args:
        ids: [b, t].
        labels: [b, t], -100 where nothing is learned.
        bins: Ascending edges of distance; bin i holds bins[i] <= tau < bins[i + 1].

    Returns:
        Per bin the mean g and the share of attention; the mean distance under attention, per layer
        and over all; the width W of exp(-tau / W) fitted to g.
    """
    mixers = [
        (layer, mixer)
        for layer, block in enumerate(model.model.layers)
        for mixer in block.self_attn.mixers
        if isinstance(mixer, AttentionMixer)
    ]
    taken: dict[Any, dict[str, Tensor]] = {mixer: {} for _, mixer in mixers}
    hooks = []
    for _, mixer in mixers:
        for name in ("query", "key", "value"):
            point = getattr(mixer, f"{name}_tap")
            hooks.append(point.register_forward_hook(_keeper(taken[mixer], name)))
        hooks.append(mixer.register_forward_hook(_keeper(taken[mixer], "output")))
    try:
        with torch.enable_grad():
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden).flatten(0, 1).float()
            loss = torch.nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=-100)
            outputs = [taken[mixer]["output"] for _, mixer in mixers]
            gradients = torch.autograd.grad(loss * (labels != -100).sum(), outputs)
    finally:
        for hook in hooks:
            hook.remove()
    tokens = ids.shape[1]
    mass = torch.zeros(tokens, dtype=torch.float64)
    gradient = torch.zeros(tokens, dtype=torch.float64)
    pairs_at = torch.zeros(tokens, dtype=torch.float64)
    by_layer: dict[int, list[float]] = {}
    with torch.no_grad():
        for (layer, mixer), d_output in zip(mixers, gradients, strict=True):
            sizes = [len(group.q_heads) for group in mixer.shape.groups]
            owner = torch.tensor([g for g, n in enumerate(sizes) for _ in range(n)])
            found = _by_distance(taken[mixer], d_output, owner.to(ids.device))
            mass += found[0]
            gradient += found[1]
            count = torch.arange(tokens, 0, -1, dtype=torch.float64) * ids.shape[0] * len(owner)
            pairs_at += count
            by_layer.setdefault(layer, []).append(_mean_distance(found[0]))
    g = gradient / pairs_at
    edges = [*bins, tokens]
    cells = [slice(a, b) for a, b in itertools.pairwise(edges) if a < tokens]
    return {
        "bins": [cell.start for cell in cells],
        "gradient": [float(gradient[cell].sum() / pairs_at[cell].sum()) for cell in cells],
        "attention_share": [float(mass[cell].sum() / mass.sum()) for cell in cells],
        "mean_distance": _mean_distance(mass),
        "mean_distance_by_layer": {str(k): sum(v) / len(v) for k, v in by_layer.items()},
        "gradient_width": fitted_width(g, first=8, last=min(tokens // 2, 192)),
    }


def fitted_width(g: Tensor, *, first: int, last: int) -> float:
    """W of exp(-tau / W): least squares on log g over distances first ... last - 1."""
    taus = torch.arange(first, last, dtype=torch.float64)
    logs = g[first:last].clamp_min(1e-30).log()
    centred = taus - taus.mean()
    slope = float((centred * (logs - logs.mean())).sum() / centred.square().sum())
    return -1 / slope if slope < 0 else math.inf


def _keeper(place: dict[str, Tensor], name: str) -> Any:
    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        place[name] = output[0] if isinstance(output, tuple) else output

    return hook


def _by_distance(
    taken: dict[str, Tensor], d_output: Tensor, owner: Tensor
) -> tuple[Tensor, Tensor]:
    """Summed attention and summed |gradient of the logits| by distance, row by row."""
    tokens = d_output.shape[1]
    device = d_output.device
    distance = torch.arange(tokens, device=device)[:, None] - torch.arange(tokens, device=device)
    seen = distance >= 0
    flat = distance[seen]
    sums = [torch.zeros(tokens, dtype=torch.float64, device=device) for _ in range(2)]
    for row in range(d_output.shape[0]):
        q = taken["query"][row].float()
        k = taken["key"][row].float()[:, owner]
        v = taken["value"][row].float()[:, owner]
        logits = torch.einsum("the,she->hts", q, k) * q.shape[-1] ** -0.5
        weights = logits.masked_fill(~seen, float("-inf")).softmax(-1)
        d_weights = torch.einsum("the,she->hts", d_output[row].float(), v)
        inner = (weights * d_weights).sum(-1, keepdim=True)
        d_logits = weights * (d_weights - inner)
        for total, values in zip(sums, (weights, d_logits.abs()), strict=True):
            total.index_add_(0, flat, values.sum(0)[seen].double())
    return sums[0].cpu(), sums[1].cpu()


def _mean_distance(mass: Tensor) -> float:
    return float((mass * torch.arange(len(mass), dtype=mass.dtype)).sum() / mass.sum())
