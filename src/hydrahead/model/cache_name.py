"""What transformers calls the cache that `generate`, `forward` and outputs hand around.

It was `past_key_values` up to transformers 5.23 and is `cache` since 5.24, which warns of the old
word. Hybrids take both.
"""

from dataclasses import fields

from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

from hydrahead.core.errors import HydraHeadError

CACHE_NAMES = ("past_key_values", "cache")
CACHE_NAME = (
    "cache" if "cache" in {f.name for f in fields(BaseModelOutputWithPast)} else CACHE_NAMES[0]
)
"""The word of the transformers that is installed."""


def one_cache(past_key_values: Cache | None, cache: Cache | None) -> Cache | None:
    """The cache, under whichever name it was given.

    Raises:
        HydraHeadError: two different ones.
    """
    if past_key_values is not None and cache is not None and past_key_values is not cache:
        raise HydraHeadError("past_key_values and cache are two names of one thing: give one")
    return cache if past_key_values is None else past_key_values
