"""What is measured: a model or a layer, dense and with fabrics, and what it is called with."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ConfigError
from ..export.inputs import BATCH, Inputs
from ..fabric import Fabric
from ..nn import FabricLinear

__all__ = ["DTYPES", "Subject"]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

MOST_NUMBERS = 1 << 30
"""Of one weight or one batch of inputs: as many as `--input` takes."""


@dataclass(frozen=True)
class Subject:
    """A dense module and the same with fabrics.

    Args:
        name: for people.
        shape: what it is, in a few words.
        dense: what the fabric stands for.
        sparse: the fabric, or the model with fabrics; its class may be any.
        example_inputs: a tuple of positional or a dict of keyword inputs.
        dense_parameters: of the layers that were replaced.
        parameters: of their fabrics.

    Example:
        >>> from sparsify.topology.monarch import Monarch
        >>> subject = Subject.layer(Monarch(blocks=8).build(64, 128))
        >>> subject.name, subject.shape, subject.density
        ('monarch(blocks=8)', '64 -> 128', 0.1875)
    """

    name: str
    shape: str
    dense: nn.Module
    sparse: nn.Module
    example_inputs: tuple[Any, ...] | dict[str, Any]
    dense_parameters: int
    parameters: int

    @staticmethod
    def layer(fabric: Fabric) -> Subject:
        """A linear layer without bias, whose weights are drawn; torch's generator stays as it is.

        Args:
            fabric: of the layer.

        Raises:
            ConfigError: the dense layer is too large.
        """
        shape = f"{fabric.in_features} -> {fabric.out_features}"
        if fabric.dense_parameters > MOST_NUMBERS:
            raise ConfigError(
                f"A dense layer {shape} has more than {MOST_NUMBERS:,} weights; give a smaller one."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Subject(
                fabric.family or str(fabric),
                shape,
                nn.Linear(fabric.in_features, fabric.out_features, bias=False),
                FabricLinear(fabric, bias=False),
                (torch.randn(2, fabric.in_features),),
                fabric.dense_parameters,
                fabric.parameters,
            )

    @property
    def density(self) -> float:
        """The share of the parameters that is left."""
        return self.parameters / self.dense_parameters

    @property
    def dtype(self) -> str:
        """Of the weights; of the first where they differ."""
        held = [p.dtype for p in self.dense.parameters() if p.is_floating_point()]
        return str((held or [torch.float32])[0]).removeprefix("torch.")

    @property
    def batch(self) -> int:
        """The number of rows in the example inputs; 0 where they have no common first axis."""
        inputs = self._bound()
        tensors, axes = inputs.tensors(), inputs.axes()
        sizes = {tensors[name].shape[a] for name in axes for a in axes[name]}
        return min(sizes, default=0)

    def cast(self, dtype: str) -> Subject:
        """The same in another type of numbers: a copy where it is another.

        Args:
            dtype: of `DTYPES`.
        """
        if dtype == self.dtype:
            return self
        dense, sparse = (copy.deepcopy(m).to(DTYPES[dtype]) for m in (self.dense, self.sparse))

        def change(leaf: Any) -> Any:
            is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
            return leaf.to(DTYPES[dtype]) if is_float else leaf

        inputs = pytree.tree_map(change, self.example_inputs)
        return replace(self, dense=dense, sparse=sparse, example_inputs=inputs)

    def inputs(self, batch: int) -> Inputs:
        """What dense is called with, and the sparse module by position or name just so.

        Args:
            batch: number of rows; 0 leaves the example inputs as they are.

        Raises:
            ConfigError: the inputs have no axis of rows, or so many rows do not fit.
        """
        inputs = self._bound()
        if batch in (0, self.batch):
            return inputs
        if not self.batch:
            raise ConfigError(
                f"The inputs of {self.name} have no first axis in common, so --batch cannot change "
                "it; leave it out."
            )
        rows = sum(tensor.numel() for tensor in inputs.tensors().values()) // self.batch
        if batch * max(rows, self._outputs()) > MOST_NUMBERS:
            raise ConfigError(
                f"A batch of {batch:,} of {self.name} is more than {MOST_NUMBERS:,} numbers; give "
                "a smaller one."
            )
        return inputs.resized(inputs.axes(), {BATCH: batch})

    def _bound(self) -> Inputs:
        return Inputs.bind(self.dense, self.example_inputs)

    def _outputs(self) -> int:
        """Numbers that a layer gives for a row, as far as they are known beforehand."""
        return self.dense.out_features if isinstance(self.dense, nn.Linear) else 1
