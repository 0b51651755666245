"""Lazy tables of plug-in points: a name stands for code that is imported when it is used.

The tables are plain dictionaries in the rooms they belong to (topologies, passes, kernels,
frontends, exporters). Other packages add entries through entry points of the group
`sparsify.<table>`; a name that is taken already is an error that names both.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

from .errors import ConfigError, nearest

__all__ = ["Registry"]


class Registry:
    """One table: name -> "module:attribute", with the entries of installed plug-ins.

    Args:
        kind: what an entry is, in the singular, for messages ("topology").
        group: the entry point group that adds to the table.
        table: the entries of this package, module paths relative to it (".topology.clos:Clos").

    Example:
        >>> table = Registry("topology", "sparsify.topologies", {"clos": ".topology.clos:Clos"})
        >>> list(table)
        ['clos']
    """

    def __init__(self, kind: str, group: str, table: Mapping[str, str]) -> None:
        """See the class."""
        self.kind = kind
        self.group = group
        self._table = dict(table)
        self._plugins_read = False

    def _entries(self) -> dict[str, str]:
        if not self._plugins_read:
            for entry in entry_points(group=self.group):
                taken = self._table.get(entry.name)
                if taken is not None and taken != entry.value:
                    raise ConfigError(
                        f"Two packages define the {self.kind} {entry.name!r}: {taken} and "
                        f"{entry.value}. Uninstall one of them."
                    )
                self._table[entry.name] = entry.value
            self._plugins_read = True
        return self._table

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order of the table."""
        return iter(self._entries())

    def __contains__(self, name: object) -> bool:
        """Whether an entry of that name exists."""
        return name in self._entries()

    def origin(self, name: str) -> str:
        """The "module:attribute" behind a name, for listings."""
        return self._entries()[self._known(name)].lstrip(".")

    def __getitem__(self, name: str) -> Any:
        """Import and return the entry.

        Raises:
            ConfigError: there is no entry of that name.
        """
        module, _, attribute = self._entries()[self._known(name)].partition(":")
        return getattr(importlib.import_module(module, __package__), attribute)

    def _known(self, name: str) -> str:
        names = self._entries()
        if name not in names:
            raise ConfigError(
                f"There is no {self.kind} {name!r}; there are {', '.join(names)}."
                f"{nearest(str(name), names)}"
            )
        return name
