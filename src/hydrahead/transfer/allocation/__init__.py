"""Learned allocation: which units stay full attention, found by training a gate per unit.

ConSA (arXiv 2606.18056): a hard-concrete gate per kv_head or layer blends two mixers, an augmented
Lagrangian holds the expected share of full units at the budget, and the gates are rounded to
exactly that budget. The DuoAttention form (arXiv 2410.10819) is the built-in comparison.
`run.allocate` is the verb; the equations and what is whose are in docs/allocation.md.
"""

from hydrahead.transfer.allocation.config import AllocateConfig
from hydrahead.transfer.allocation.run import allocate

__all__ = ["AllocateConfig", "allocate"]
