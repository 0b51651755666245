"""An optimiser of a dense model, made over for the model that it was converted to."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .nn import FabricLayer, FabricWeight, norm_parameters, unfolded_twin
from .nn.check import check_model
from .optim import PLAIN, Share, name_of, shares_of

__all__ = ["convert_optimizer"]

AnyOptimizer = TypeVar("AnyOptimizer", bound=torch.optim.Optimizer)

# Learning rates in a group, by whatever name schedulers keep them there.
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


def convert_optimizer(
    optimizer: AnyOptimizer,
    model: nn.Module,
    sparse: nn.Module,
    *,
    factor_rates: bool | None = None,
) -> AnyOptimizer:
    """A new optimizer over a converted model, that goes on where that of the dense model stood.

    Parameters that stayed keep their group and their state (momenta, step counts). The factors of a
    replaced weight go to the group that the weight was in, with fresh state. What the optimizer did
    not train stays out. The old optimizer is left as it was, and trains the dense model.

    Learning-rate schedulers hold the old optimizer, and go on turning its rates: make them anew
    over this one. The groups keep `lr` and `initial_lr`; where their number is the same
    (`factor_rates=False`), `scheduler.load_state_dict(old_scheduler.state_dict())` goes on from the
    step where the old one stood.

    Args:
        optimizer: of any class whose constructor takes what its `defaults` say, such as those of
            `torch.optim`. It holds parameters of `model`.
        model: the dense model, as it was converted.
        sparse: what `sparsify` made of it.
        factor_rates: whether factors get learning rates and decays of their own, by the rule of
            `param_groups`; the groups of the dense weights are divided for that, and all their
            other settings kept. None: where the optimizer is Adam or of its kin (it has `betas`),
            for which the rule is made. False: every group stays one group with its own rate.

    Returns:
        An optimizer of the same class and settings.

    Raises:
        ConfigError: an argument is no optimizer or model; the optimizer holds other parameters, or
            those of the converted model already; the two models do not belong together; or the
            class of the optimizer cannot take the factors.

    Example:
        >>> import sparsify as sp
        >>> model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        >>> sparse = sp.sparsify(model, budget=0.25)
        >>> optimizer = sp.convert_optimizer(optimizer, model, sparse)
        >>> [(len(group["params"]), group["lr"]) for group in optimizer.param_groups]
        [(3, 0.001), (2, 0.004)]
    """
    _check(optimizer, model, sparse)
    heirs = _heirs(model, sparse)
    scaled = "betas" in optimizer.defaults if factor_rates is None else factor_rates
    shares = shares_of(sparse) if scaled else {}
    groups = [
        divided
        for group in optimizer.param_groups
        for divided in _divided(group, heirs, shares, optimizer)
    ]
    new = _like(optimizer, groups)
    if not isinstance(optimizer, torch.optim.LBFGS):  # its state mixes all parameters
        for old in (p for group in optimizer.param_groups for p in group["params"]):
            for heir in heirs.get(id(old), ()):
                if heir.view is not None and optimizer.state.get(old):
                    new.state[heir.parameter] = _carried(optimizer.state[old], old, heir.view)
    return new


class _Heir(NamedTuple):
    """A parameter of the converted model.

    Args:
        name: its path.
        parameter: itself.
        view: the dense values that it is a copy of, sharing memory with the dense parameter;
            None for a factor.
    """

    name: str
    parameter: nn.Parameter
    view: Tensor | None


def _check(optimizer: object, model: object, sparse: object) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}."
        )
    for name, value in (("model", model), ("sparse", sparse)):
        check_model(value, name)
    own, new = (
        {id(p) for p in module.parameters()}  # type: ignore[attr-defined]
        for module in (model, sparse)
    )
    if own & new:
        raise ConfigError(
            "model and sparse share parameters; give the dense model first, and then the one that "
            "sp.sparsify made of it."
        )
    held = [p for group in optimizer.param_groups for p in group["params"]]
    strange = [p for p in held if id(p) not in own]
    if strange and all(id(p) in new for p in held):
        raise ConfigError(
            "The optimizer holds the parameters of the converted model already; there is nothing "
            "to convert."
        )
    if strange:
        raise ConfigError(
            f"{len(strange)} of the {len(held)} parameters of the optimizer, the first of shape "
            f"{tuple(strange[0].shape)}, are not in the dense model: it is of another model, or "
            "the model has been replaced since. Give the very model that the optimizer was made "
            "for, and what sp.sparsify made of that."
        )


def _heirs(model: nn.Module, sparse: nn.Module) -> dict[int, list[_Heir]]:
    """Identity of each dense parameter -> what stands for it in the converted model."""
    fabrics = {
        path: layer for path, layer in sparse.named_modules() if isinstance(layer, FabricLayer)
    }
    raw = {path: f.flipped for path, f in fabrics.items() if isinstance(f, FabricWeight)}
    twin = unfolded_twin(model, [*fabrics], raw)  # in which the same paths mean the same
    dense = dict(twin.named_parameters(remove_duplicate=False))
    owners = _owners(model)
    heirs: dict[int, list[_Heir]] = {}
    for name, parameter in sparse.named_parameters():
        path = name.partition(".factors.")[0]
        if path == name or path not in fabrics:
            view = dense.get(name)
            if view is None or view.shape != parameter.shape:
                raise _not_a_pair(name)
            heirs.setdefault(id(_owner(view, owners)), []).append(_Heir(name, parameter, view))
            continue
        weight = _weight(twin, path)
        if weight is None:
            raise _not_a_pair(name)
        heirs.setdefault(id(_owner(weight, owners)), []).append(_Heir(name, parameter, None))
    return heirs


def _not_a_pair(name: str) -> ConfigError:
    return ConfigError(
        f"The two models do not belong together: the converted one has {name!r}, which nothing in "
        "the dense one became. Give the dense model and what sp.sparsify made of it."
    )


def _weight(twin: nn.Module, path: str) -> nn.Parameter | None:
    """The parameter that a layer's weight is, or is computed from: the direction, for a norm."""
    try:
        layer = twin.get_submodule(path)
    except AttributeError:
        return None
    names = ("weight", *norm_parameters(layer)[1:])
    held = dict(layer.named_parameters())
    return next((held[name] for name in names if name in held), None)


def _owners(model: nn.Module) -> dict[int, list[nn.Parameter]]:
    """Storage -> the parameters in it."""
    owners: dict[int, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        owners.setdefault(parameter.untyped_storage()._cdata, []).append(parameter)
    return owners


def _owner(view: Tensor, owners: dict[int, list[nn.Parameter]]) -> nn.Parameter:
    """The parameter of the user's own model that a tensor of its twin is, or is a slice of."""
    there = owners[view.untyped_storage()._cdata]
    first = view.storage_offset()
    for parameter in there:
        start = parameter.storage_offset()
        if parameter is view or start <= first < start + max(1, parameter.numel()):
            return parameter
    return there[0]


def _divided(
    group: dict[str, Any],
    heirs: dict[int, list[_Heir]],
    shares: dict[int, Share],
    optimizer: torch.optim.Optimizer,
) -> Iterator[dict[str, Any]]:
    """The group of a dense model as one of the converted model, and one more for each rate."""
    members: dict[Share, list[_Heir]] = {PLAIN: []}
    for old in group["params"]:
        for heir in heirs.get(id(old), ()):
            members.setdefault(shares.get(id(heir.parameter), PLAIN), []).append(heir)
    settings = {
        key: value.clone() if isinstance(value, Tensor) else copy.copy(value)
        for key, value in group.items()
        if key not in ("params", "param_names")
    }
    for share in sorted(members, key=lambda share: (share != PLAIN, share)):
        named = [(heir.name, heir.parameter) for heir in members[share]]
        if not named and len(members) > 1:
            continue
        own: dict[str, Any] = {**settings}
        own["params"] = named if "param_names" in group else [p for _, p in named]
        if share != PLAIN:
            for key in _RATES:
                if key in own:
                    own[key] = own[key] * share.rate
            if "weight_decay" in own:
                own["weight_decay"] = own["weight_decay"] / (share.rate * share.stages)
            if "name" in own:
                own["name"] = f"{own['name']}, {name_of(share)}"
        yield own


def _like(optimizer: AnyOptimizer, groups: list[dict[str, Any]]) -> AnyOptimizer:
    """Another optimizer of the same class, by its constructor."""
    kind = type(optimizer)
    taken = inspect.signature(kind).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
    options = {k: v for k, v in optimizer.defaults.items() if takes_any or k in taken}
    try:
        new = kind(groups, **options)
    except Exception as error:  # whatever a class of somebody else's raises
        raise ConfigError(
            f"{kind.__name__} cannot be made anew for the converted model ({type(error).__name__}: "
            f"{error}). Make one yourself, over sp.param_groups(sparse, lr=...)."
        ) from error
    new.defaults = {**new.defaults, **optimizer.defaults}
    for name in _HOOKS:
        getattr(new, name).update(getattr(optimizer, name))
    return new


def _carried(state: dict[str, Any], old: Tensor, view: Tensor) -> dict[str, Any]:
    """A copy of a parameter's state; of a slice of the parameter, that slice of each tensor."""
    is_whole = view.shape == old.shape and view.stride() == old.stride()
    carried: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            carried[key] = copy.deepcopy(value)
        elif is_whole or value.dim() == 0:
            carried[key] = value.clone()
        elif value.shape == old.shape:
            laid = value.new_empty_strided(old.shape, old.stride()).copy_(value)
            place = view.storage_offset() - old.storage_offset()
            carried[key] = laid.as_strided(view.shape, view.stride(), place).clone()
        else:
            return {}  # sums over rows or columns, which a slice has no part of
    return carried
