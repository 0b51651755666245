"""Scales and starts for deep networks: what an activation, a shortcut or plain depth asks for.

An init keeps the variance of one layer; these functions see to what lies between layers. Those that
fill weights end in an underscore and work in place, as those of `torch.nn.init` do.
"""

from .activation import gain, tailored_slope
from .mirror import mirror_
from .residual import scale_residual_

__all__ = ["gain", "mirror_", "scale_residual_", "tailored_slope"]
