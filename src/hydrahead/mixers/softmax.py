"""softmax(q k^T / sqrt(e)) v for grouped heads, without ever expanding keys and values in memory.

Every group has one key/value head and g q_heads. "sdpa" folds the group into a place PyTorch's
fused kernels can read with strides; "eager" is the same sum written out, as in transformers' eager
attention (weights in fp32, then back to the input's dtype).

Axes: b batch, n groups, g q_heads of each group, t queries, s keys, e head_dim.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from hydrahead.core.errors import unknown_name

HALF_TYPES = (torch.float16, torch.bfloat16)


def attend(
    q: Float[Tensor, "b n g t e"],
    k: Float[Tensor, "b n s e"],
    v: Float[Tensor, "b n s e"],
    *,
    mask: Bool[Tensor, "rows t s"] | None,
    causal: bool,
    implementation: str,
) -> Float[Tensor, "b n g t e"]:
    """Attention of every q_head over its group's keys.

    Args:
        q, k, v: queries by group, and one key/value head per group.
        mask: True where a query may look (rows is b or 1); every query must see at least one key.
        causal: the last query sees every key, the one before all but the last, and so on (t <= s).
        Not
            together with a mask.
        implementation: "sdpa" or "eager".

    Raises:
        HydraHeadError: another implementation was asked for.
    """
    if implementation not in _IMPLEMENTATIONS:
        raise unknown_name("attn_implementation", implementation, _IMPLEMENTATIONS)
    assert mask is None or not causal
    return _IMPLEMENTATIONS[implementation](q, k, v, mask, causal and q.shape[3] > 1)


def causal_is_fused(queries: int, keys: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a causal call of this size runs without a mask of queries x keys in memory."""
    return queries in (1, keys) or (device.type == "cuda" and dtype in HALF_TYPES)


def _eager(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    b, n, g, t, e = q.shape
    s = k.shape[2]
    # The g q_heads of a group become rows of one matrix: a broadcast matmul would copy k g times.
    scores = q.reshape(b, n, g * t, e) @ k.transpose(-1, -2)
    scores = scores.view(b, n, g, t, s) * e**-0.5
    if causal:
        mask = lower_right(t, s, q.device)[None]
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], float("-inf"))
    wide = torch.promote_types(q.dtype, torch.float32)
    weights = torch.softmax(scores, dim=-1, dtype=wide).to(q.dtype)
    return (weights.view(b, n, g * t, s) @ v).view(b, n, g, t, e)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    with _one_token_kernels() if q.shape[3] == 1 and q.device.type == "cuda" else nullcontext():
        return _fused(q, k, v, mask, causal)


def _one_token_kernels() -> AbstractContextManager[Any]:
    """All but cuDNN, which plans anew for every number of keys: 7 ms a layer and decoded token."""
    if torch.compiler.is_compiling():
        return sdpa_kernel(
            [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        )
    return _without_cudnn()


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """What `sdpa_kernel` does, without its 15 us on the host: two launches' worth, every layer."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    b, n, g, t, e = q.shape
    s = k.shape[2]
    attn_mask: Any = None if mask is None else mask[:, None]
    if causal and t != s:
        attn_mask, causal = _lower_right_bias(q, s), False
    call: Callable[..., Tensor] = functional.scaled_dot_product_attention
    if g == 1:
        return call(q[:, :, 0], k, v, attn_mask=attn_mask, is_causal=causal).unsqueeze(2)
    if t == 1:  # a group's q_heads are just more queries on the same keys
        return call(q[:, :, :, 0], k, v, attn_mask=attn_mask).unsqueeze(3)
    if _reads_groups(q, attn_mask):
        flat = q.flatten(1, 2)
        out = call(flat, k, v, attn_mask=attn_mask, is_causal=causal, enable_gqa=True)
        return out.view(b, n, g, t, e)
    # Groups as batch, their q_heads as heads whose keys are one tensor read with stride 0.
    if mask is not None and mask.shape[0] > 1:
        attn_mask = mask[:, None].expand(b, n, t, s).flatten(0, 1)[:, None]
    out = call(
        q.flatten(0, 1),
        k.flatten(0, 1)[:, None].expand(-1, g, -1, -1),
        v.flatten(0, 1)[:, None].expand(-1, g, -1, -1),
        attn_mask=attn_mask,
        is_causal=causal,
    )
    return out.view(b, n, g, t, e)


def _reads_groups(q: Tensor, attn_mask: Any) -> bool:
    """Whether `enable_gqa` reaches a fused kernel; elsewhere PyTorch silently expands k and v."""
    if q.device.type == "cpu":
        return True
    maskless = attn_mask is None or type(attn_mask) is not Tensor
    return q.device.type == "cuda" and maskless and q.dtype in HALF_TYPES


def _lower_right_bias(q: Tensor, keys: int) -> Any:
    queries = q.shape[3]
    if causal_is_fused(queries, keys, q.device, q.dtype):
        from torch.nn.attention.bias import causal_lower_right

        return causal_lower_right(queries, keys)
    return lower_right(queries, keys, q.device)


def lower_right(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "t s"]:
    """The causal mask whose last query sees every key."""
    ones = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return ones.tril(diagonal=keys - queries)


_IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {"sdpa": _sdpa, "eager": _eager}


def implementations() -> tuple[str, ...]:
    """The names `attend` knows."""
    return tuple(_IMPLEMENTATIONS)


def varlen_is_available(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether packed rows can go through PyTorch's variable-length flash attention."""
    if device.type != "cuda" or dtype not in HALF_TYPES or head_dim > 256 or head_dim % 8:
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # PyTorch before 2.10: the caller goes document by document, same result
        return False
    return "window_size" in inspect.signature(varlen_attn).parameters


def attend_varlen(
    q: Float[Tensor, "total h e"],
    k: Float[Tensor, "total n e"],
    v: Float[Tensor, "total n e"],
    cu_seqlens: Int[Tensor, " documents_plus_one"],
    longest: int,
    window: int | None,
) -> Float[Tensor, "total h e"]:
    """Causal attention within each document of rows laid end to end (CUDA, half precision).

    Args:
        q, k, v: q_heads of a group adjacent.
        cu_seqlens: offsets of the documents, int32.
        longest: tokens of the longest document.
        window: a query sees keys at a distance below this; None is all of its document.
    """
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    grouped: dict[str, Any] = {}
    if "enable_gqa" in known and q.shape[1] != k.shape[1]:
        grouped["enable_gqa"] = True
    reach = -1 if window is None else window - 1
    out = varlen_attn(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        window_size=(reach, 0),
        **grouped,
    )
    assert isinstance(out, Tensor)
    return out
