"""Models made by the user's own code: `package.module:factory`."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, ModelError, SparsifyError, nearest
from .source import Request, Source
from .weights import with_weights

__all__ = ["Factory", "current_folder", "find", "seeded"]


class Factory:
    """A function without required arguments that returns a model, or (model, example_inputs).

    A module instance in place of the function serves too. Modules are also found in the current
    folder. Random weights are drawn from the seed; the global generator stays as it was.
    """

    @staticmethod
    def accepts(text: str) -> bool:
        """Whether the text is dotted.module:name."""
        module, colon, name = text.partition(":")
        return bool(colon) and all(
            part.isidentifier() for part in (*module.split("."), *name.split("."))
        )

    @staticmethod
    def open(request: Request) -> Source:
        """Call the factory, and load the weights where there are some.

        Raises:
            ConfigError: there is no such module or name.
            ModelError: the code fails, or returns no model; or the weights do not fit.
        """
        with current_folder():
            factory = find(request.text)
            made: Any = factory if isinstance(factory, nn.Module) else _call(request, factory)
        model, example_inputs = made if _is_pair(made) else (made, None)
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"{request.text} must return a torch.nn.Module, or (module, example_inputs); got "
                f"{type(model).__name__}."
            )
        if request.weights is not None:
            model = with_weights(model, request.weights, trust_pickle=request.trust_pickle)
        return Source(model, example_inputs)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside the block; the global generator is as before after it."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextlib.contextmanager
def current_folder() -> Iterator[None]:
    """Let the user's code import from where he is, as `python -m` does."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def find(text: str, does: str = "returns a model") -> Any:
    """What package.module:name is.

    Args:
        text: the name.
        does: what a function of that name is for, in messages.

    Raises:
        ConfigError: there is no such module or name, or it cannot be called.
        ModelError: the module fails to import.
    """
    module_name, _, name = text.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ModelError(f"Importing {module_name} failed: {error}.") from error
        raise ConfigError(
            f"There is no module {error.name!r}. Run the command where `python -c 'import "
            f"{module_name}'` works."
        ) from error
    except Exception as error:  # whatever the user's module raises
        raise _failed(f"Importing {module_name}", error) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{module_name} has no {name!r}.{nearest(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"{text} must be a function that {does}; it is {type(found).__name__}.")
    return found


def _call(request: Request, factory: Any) -> Any:
    try:
        with seeded(request.seed):
            return factory()
    except SparsifyError:
        raise
    except Exception as error:  # whatever the user's factory raises
        raise _failed(f"{request.text}()", error) from error


def _failed(what: str, error: Exception) -> ModelError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    return ModelError(f"{what} failed with {reason}. The command line shows more with -v.")


def _is_pair(made: Any) -> bool:
    return isinstance(made, tuple) and len(made) == 2
