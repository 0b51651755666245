"""Tensor parallel fabrics: a style for `torch.distributed.tensor.parallel.parallelize_module`."""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle
from torch.distributed.tensor.placement_types import Placement

from ..errors import ConfigError
from ..fabric import Fabric
from ..nn import FabricLinear, FabricTransposedLinear
from ..ops import OperandError, fabric_linear
from ..ops.formula import rows_of
from .division import axis_of
from .schedule import Schedule

__all__ = ["FabricParallel"]


class FabricParallel(ParallelStyle):
    """Divides a linear fabric over the ranks of a mesh, for `parallelize_module`.

    Each of the P ranks has 1/P of the blocks of every stage and computes alone; between two stages
    the features move by one all-to-all. The factors become DTensors: Shard(0), cut along a, or
    Shard(1), along d. A stage with fewer blocks than ranks is cut through its blocks, Shard(2) or
    Shard(3), along the wider of b and c; what it reads or writes on the narrow side, such as the
    features between low-rank factors, is summed for all ranks. Nothing is replicated but the bias
    of a layer whose output is. Any sizes work; those that P divides are even: `largest_shares`.

    The features between an up- and a down-projection need not be replicated:
    `{"fc1": FabricParallel(output_layouts=Shard(-1)),
    "fc2": FabricParallel(input_layouts=Shard(-1))}`. That is the layout of ColwiseParallel and
    RowwiseParallel too, so that dense layers mix in.

    Args:
        input_layouts: of the input, where it is no DTensor that knows: Replicate(), the default, or
            Shard(-1).
        output_layouts: of the output, a local tensor: Replicate(), the default, or Shard(-1).

    Raises:
        ConfigError: another layout; or, from parallelize_module, a module that is no linear fabric,
            or a mesh of more than one dimension.

    Example:
        >>> from torch.distributed.tensor.parallel import parallelize_module
        >>> import sparsify as sp
        >>> style = sp.distributed.FabricParallel()
        >>> parallelize_module(model, mesh, {"blocks.*.fc1": style})  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        input_layouts: Placement | None = None,
        output_layouts: Placement | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        self.input_layouts = _layout("input_layouts", input_layouts)
        self.output_layouts = _layout("output_layouts", output_layouts)

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        kind = _KINDS.get(type(module))
        if kind is None or not isinstance(module, FabricLinear):
            raise ConfigError(
                "FabricParallel divides FabricLinear and FabricTransposedLinear; got "
                f"{type(module).__name__}. For dense layers there are torch's ColwiseParallel and "
                "RowwiseParallel."
            )
        if device_mesh.ndim != 1:
            raise ConfigError(
                f"A fabric is divided over one dimension of a mesh; got {device_mesh.ndim}. Take "
                'one of them, such as mesh["tp"].'
            )
        _warn_of_idle_ranks(module.fabric, device_mesh.size())
        for place, stage in enumerate(module.fabric.stages):
            axis = axis_of(stage, device_mesh.size())
            module.factors[place] = self._distribute(
                module.factors[place], device_mesh, Shard(axis)
            )
        writes_all = isinstance(self.output_layouts, Replicate)
        if module.bias is not None:
            layout = Replicate() if writes_all else Shard(0)
            module.bias = self._distribute(module.bias, device_mesh, layout)
        module.__class__ = kind
        divided = cast(DividedLinear, module)
        divided.input_layouts = self.input_layouts
        divided.schedule = Schedule(
            module.fabric,
            device_mesh.get_group(),
            torch.device(device_mesh.device_type),
            reads_all=isinstance(self.input_layouts, Replicate),
            writes_all=writes_all,
        )
        return divided

    def _distribute(self, parameter: Tensor, mesh: DeviceMesh, layout: Placement) -> nn.Parameter:
        source = getattr(self, "src_data_rank", 0)
        options: dict[str, Any] = {} if source == 0 else {"src_data_rank": source}
        divided = distribute_tensor(parameter, mesh, [layout], **options)
        return nn.Parameter(divided, requires_grad=parameter.requires_grad)


class DividedLinear(FabricLinear):
    """A FabricLinear of which each rank has a part; made by `FabricParallel`."""

    input_layouts: Placement
    schedule: Schedule

    def forward(
        self,
        x: Tensor,  # (*batch, in_features), or this rank's chunk of the features
    ) -> Tensor:  # (*batch, out_features), or this rank's chunk of them
        """Apply the layer, together with the other ranks."""
        if isinstance(x, DTensor):
            x = x.redistribute(placements=[self.input_layouts]).to_local()
        if not x.dim() or x.shape[-1] != self.schedule.inputs:
            raise OperandError(
                f"The input needs {self.schedule.inputs} features on its last axis on this rank, "
                f"as input_layouts={self.input_layouts} says; got shape {tuple(x.shape)}. "
                f"The fabric is {self.fabric}."
            )
        factors = [_local(factor) for factor in self.factors]
        y = self.schedule(rows_of(x).t(), factors).t().contiguous()
        if self.bias is not None:
            y = y + _local(self.bias).to(y.dtype)
        return y.view(*x.shape[:-1], y.shape[1])

    @property
    def weight(self) -> Tensor:
        """The dense weight, (out_features, in_features), whole on every rank."""
        factors = [cast(DTensor, factor).full_tensor() for factor in self.factors]
        identity = torch.eye(self.in_features, dtype=factors[0].dtype, device=factors[0].device)
        return fabric_linear(identity, factors, self._text).T

    def extra_repr(self) -> str:
        """The fabric, and how it is cut."""
        ranks = self.schedule.ranks
        axes = ", ".join("adbc"[axis_of(stage, ranks)] for stage in self.fabric.stages)
        return f"{super().extra_repr()}, ranks={ranks}, divided along {axes}"


class DividedTransposedLinear(FabricTransposedLinear, DividedLinear):
    """A FabricTransposedLinear of which each rank has a part."""


_KINDS: dict[type[nn.Module], type[DividedLinear]] = {
    FabricLinear: DividedLinear,
    FabricTransposedLinear: DividedTransposedLinear,
}


def _local(parameter: Tensor) -> Tensor:
    return cast(DTensor, parameter).to_local()


def _layout(name: str, layout: Placement | None) -> Placement:
    if layout is None:
        return Replicate()
    if layout not in (Replicate(), Shard(-1)):
        raise ConfigError(
            f"{name} is Replicate() or Shard(-1); got {layout}. Convert others with "
            "torch.distributed.tensor.parallel.PrepareModuleInputOutput."
        )
    return layout


def _warn_of_idle_ranks(fabric: Fabric, ranks: int) -> None:
    for stage in fabric.stages:
        size = stage.shape[axis_of(stage, ranks)]
        busy = -(-size // -(-size // ranks))
        if busy < ranks:
            warnings.warn(
                f"The stage {stage} has nothing to do for {ranks - busy} of {ranks} ranks. Choose "
                f"sizes that {ranks} divides, such as a number of blocks. The fabric is {fabric}.",
                stacklevel=3,
            )
