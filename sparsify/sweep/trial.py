"""One run at one point, and its line in a file of results."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ModelError

__all__ = ["Trial", "encoded", "trial_key"]

# As in the JSON of protobuf.
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Trial:
    """What became of one run at one point.

    Args:
        run: the function, "module:qualname".
        point: what it was called with, JSON values by name.
        result: what it returned, JSON values by name; None where it failed. In files "NaN",
            "Infinity" and "-Infinity" stand for what JSON has no numbers for; read, such texts are
            numbers again.
        error: the traceback, which ends with what went wrong; None where it did not fail.
        seconds: wall time of the run.
        machine: where it ran: processor, device, platform, versions, threads.

    Example:
        >>> trial = Trial("my.study:train", {"lr": 0.1}, {"loss": 2.5}, None, 60.0, {})
        >>> trial.result["loss"]
        2.5
        >>> trial.key
        '["my.study:train",{"lr":0.1}]'
    """

    run: str
    point: dict[str, Any]
    result: dict[str, Any] | None
    error: str | None
    seconds: float
    machine: dict[str, Any]

    @property
    def key(self) -> str:
        """What makes two trials the same: the function and the point, as canonical JSON."""
        return trial_key(self.run, self.point)

    def to_line(self) -> str:
        """The trial as one line of JSON.

        Example:
            >>> Trial("my.study:train", {"lr": 9}, {"loss": math.nan}, None, 1.0, {}).to_line()
            '{"run": "my.study:train", "point": {"lr": 9}, "result": {"loss": "NaN"}, ...}'
        """
        fields = {**asdict(self), "result": encoded(self.result)}
        return json.dumps(fields, allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> Trial:
        """The trial that a line holds.

        Raises:
            ModelError: it holds none.
            ValueError: it is not JSON.

        Example:
            >>> trial = Trial("my.study:train", {"lr": 9}, {"loss": math.inf}, None, 1.0, {})
            >>> Trial.from_line(trial.to_line()) == trial
            True
        """
        fields = json.loads(line)
        if not _is_trial(fields):
            raise ModelError("It is no trial.")
        return cls(**{**fields, "result": _decoded(fields["result"])})


def trial_key(run: str, point: dict[str, Any]) -> str:
    """The function and the point as canonical JSON, equal where both are equal.

    Example:
        >>> trial_key("my.study:train", {"lr": 0.1, "depth": 2})
        '["my.study:train",{"depth":2,"lr":0.1}]'
    """
    return json.dumps([run, point], sort_keys=True, separators=(",", ":"), allow_nan=False)


def encoded(value: Any) -> Any:
    """A value of a result for JSON: "NaN", "Infinity" and "-Infinity" for what is not finite.

    Example:
        >>> encoded({"losses": [0.5, math.inf]})
        {'losses': [0.5, 'Infinity']}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return next(name for name, number in _NUMBERS.items() if repr(number) == repr(value))
    if isinstance(value, dict):
        return {name: encoded(item) for name, item in value.items()}
    return [encoded(item) for item in value] if isinstance(value, list) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, str):
        return _NUMBERS.get(value, value)
    if isinstance(value, dict):
        return {name: _decoded(item) for name, item in value.items()}
    return [_decoded(item) for item in value] if isinstance(value, list) else value


_KINDS: dict[str, tuple[type, ...]] = {
    "run": (str,),
    "point": (dict,),
    "result": (dict, type(None)),
    "error": (str, type(None)),
    "seconds": (float, int),
    "machine": (dict,),
}


def _is_trial(fields: Any) -> bool:
    return (
        isinstance(fields, dict)
        and fields.keys() == _KINDS.keys()
        and all(isinstance(fields[name], kinds) for name, kinds in _KINDS.items())
        and (fields["result"] is None) != (fields["error"] is None)
    )
