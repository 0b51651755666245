"""Learning rates and weight decay for the factors of fabrics, for any optimiser.

One step of Adam moves the output of a factor in proportion to the factor's own fan-in, and the
factors of a fabric have far smaller fan-ins than the dense layer had. At the dense layer's learning
rate a fabric therefore learns too slowly; `param_groups` gives each factor a rate at which the
whole cascade moves about as far per step as the dense layer did.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import nn

from .errors import ConfigError
from .fabric import Weighted
from .nn import FabricLayer
from .nn.check import check_model

__all__ = ["MOST", "PLAIN", "Share", "name_of", "param_groups", "shares_of"]

MOST = 10.0
"""Highest learning rate of a factor, as a multiple of the base rate.

Byte-level transformers of width 256 with a tenth of the body's weights, 0.8 million bytes, one
seed, each at the best base rate that was tried, in bits per byte of held-out files: at most 3 times
2.174, 5 times 2.135, 10 times 2.139, and one rate of 0.02 for all factors 2.137. So the cap is no
delicate choice; the base rate is, and with this cap the best one falls as 1 / width (README).
"""


class Share(NamedTuple):
    """What a parameter gets of the base rate, and in how many stages its decay is shared."""

    rate: float = 1.0
    stages: int = 1


PLAIN = Share()


def param_groups(model: nn.Module, lr: float, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    """Parameter groups in which every factor of a fabric has its own learning rate and decay.

    A factor with fan-in d, in a cascade of L stages that stands for a dense layer of fan-in n, gets
    the learning rate lr * n / (d * L), at most `MOST` times lr, and the weight decay
    weight_decay * (lr / its rate) / L, so that the product of the factors decays as the dense
    weight would. All other parameters (biases, norms, embeddings, layers that stayed dense) form
    one group with lr and weight_decay as they are given, just as in
    `AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)`.

    The rule is made for Adam and its kin, whose steps do not grow with the gradient; not for
    `torch.optim.Muon`, which takes two-dimensional parameters only. Schedulers that multiply rates
    (LambdaLR, CosineAnnealingLR and most others) work as they are; CosineAnnealingLR with an
    `eta_min` above 0 ends all groups at that one rate, and OneCycleLR wants
    `max_lr=[group["lr"] for group in groups]`.

    Args:
        model: any model, converted already: parameters that come later are in no group.
        lr: base learning rate, above 0. Without a sweep: 0.77 / width for a transformer's blocks,
            or one that suits the dense model.
        weight_decay: decoupled weight decay of the dense model, 0 or more.

    Returns:
        Dictionaries with params, lr, weight_decay and name. Parameters with the same rate and decay
        share one; every trainable parameter is in exactly one of them, tied ones once.

    Raises:
        ConfigError: lr or weight_decay is out of range, or nothing in the model is trainable.

    Example:
        >>> import torch, sparsify as sp
        >>> layer = sp.nn.FabricLinear(sp.fabric("monarch", 64, 64, blocks=8))
        >>> groups = sp.param_groups(layer, lr=0.001)
        >>> [(group["name"], group["lr"]) for group in groups]
        [('plain', 0.001), ('lr x 4, 2 stages', 0.004)]
        >>> optimiser = torch.optim.AdamW(groups)

    Reference:
        Yang et al. 2021, Tensor Programs V (rates under which outputs move alike at every width).
    """
    check_model(model)
    if not _is_finite(lr) or lr <= 0:
        raise ConfigError(f"lr must be a finite number above 0, such as 0.001; got {lr!r}.")
    if not _is_finite(weight_decay) or weight_decay < 0:
        raise ConfigError(
            "weight_decay must be a finite number of 0 or more, such as 0.01; "
            f"got {weight_decay!r}."
        )
    shares = shares_of(model)
    members: dict[Share, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            members.setdefault(shares.get(id(parameter), PLAIN), []).append(parameter)
    if not members:
        raise ConfigError(
            f"The model ({type(model).__name__}) has no trainable parameter. "
            "Set requires_grad on what is to be trained."
        )
    return [
        {
            "params": members[share],
            "lr": lr * share.rate,
            "weight_decay": weight_decay / (share.rate * share.stages),
            "name": name_of(share),
        }
        for share in sorted(members, key=lambda share: (share != PLAIN, share))
    ]


def _is_finite(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]


def shares_of(model: nn.Module) -> dict[int, Share]:
    """The share of each factor, by the parameter's identity; of a tied one, its first layer's."""
    shares: dict[int, Share] = {}
    for layer in model.modules():
        if not isinstance(layer, FabricLayer):
            continue
        factors = iter(layer.factors)
        for branch in layer.fabric.branches:
            stages = [step for step in branch if isinstance(step, Weighted)]
            for stage in stages:
                rate = min(layer.fan_in / (stage.fan_in * len(stages)), MOST)
                shares.setdefault(id(next(factors)), Share(rate, len(stages)))
    return shares


def name_of(share: Share) -> str:
    """How the group of a share is called."""
    if share == PLAIN:
        return "plain"
    return f"lr x {share.rate:.3g}, {share.stages} stage{'s' * (share.stages > 1)}"
