"""Randomness that depends on the seed and on what it is for, and on nothing else.

One seed per run; every consumer derives its own stream from labels ("probe", "niah_single", 17).
Adding a consumer, changing a batch size or resuming does not shift anybody else's stream, and the
numbers are the same on every machine (sha256, not Python's salted hash).
"""

import hashlib
import json
import random

import numpy as np


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed for one consumer; labels are told apart by type and position ("1" is not 1)."""
    text = json.dumps([int(seed), *labels], ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *labels: str | int) -> random.Random:
    """Python's generator, seeded for one consumer."""
    return random.Random(derive_seed(seed, *labels))


def numpy_generator(seed: int, *labels: str | int) -> np.random.Generator:
    """NumPy's generator, seeded for one consumer."""
    return np.random.default_rng(derive_seed(seed, *labels))
