"""One implementation of an operation: its two forms and how to call them best."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

KernelForm = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """The chunked and the recurrent form of an operation; both give the same results.

    An operation that does not tell them apart (short_conv) has one function in both places.
    """

    op: str
    name: str
    """"reference" or "fast"."""
    chunked: KernelForm
    recurrent: KernelForm
    recurrent_up_to: int = 1
    """Tokens up to which the recurrent form is faster, where no gradient is needed."""
    longest_chunk: int = 64
    """Chunk sizes above this cost speed, or are not supported."""
