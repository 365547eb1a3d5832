"""A named place where activations can be read or replaced.

It computes nothing. `model/taps.py` finds these modules and puts forward hooks on them, so nothing
else in the package needs to know how recording or patching works.
"""

from torch import nn


class TapPoint(nn.Identity):
    """Passes its input through; hooks on it see, and may replace, the tensor."""
