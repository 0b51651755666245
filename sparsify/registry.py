"""Lazy tables of plug-in points: a name stands for code that is imported when it is used.

The tables are plain dictionaries in the rooms they belong to (topologies, passes, kernels,
frontends, exporters). Other packages add entries through entry points of the group
`sparsify.<table>`; a name that is taken already is an error that names both.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
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
        check: looks at what a plug-in brings, given its name and the thing; raises `ConfigError`.

    Example:
        >>> table = Registry("topology", "sparsify.topologies", {"clos": ".topology.clos:Clos"})
        >>> list(table)
        ['clos']
    """

    def __init__(
        self,
        kind: str,
        group: str,
        table: Mapping[str, str],
        check: Callable[[str, Any], None] | None = None,
    ) -> None:
        """See the class."""
        self.kind = kind
        self.group = group
        self._check = check
        self._table = dict(table)
        self._packages: dict[str, str] = {}
        self._plugins_read = False

    def _entries(self) -> dict[str, str]:
        if not self._plugins_read:
            table, packages = dict(self._table), dict(self._packages)
            for entry in entry_points(group=self.group):
                taken = table.get(entry.name)
                package = entry.dist.name if entry.dist else "a package"
                if taken is not None and taken != entry.value:
                    other = packages.get(entry.name, "sparsify-fabric")
                    raise ConfigError(
                        f"Two packages define the {self.kind} {entry.name!r}: {other} "
                        f"({taken.lstrip('.')}) and {package} ({entry.value}). Uninstall one of "
                        f"them, or rename its entry point."
                    )
                table[entry.name] = entry.value
                packages.setdefault(entry.name, package)
            self._table, self._packages = table, packages
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
            ConfigError: there is no entry of that name, or a plug-in is broken.
        """
        module, _, attribute = self._entries()[self._known(name)].partition(":")
        if name not in self._packages:
            return getattr(importlib.import_module(module, __package__), attribute)
        found = self._plugin(name, module, attribute)
        if self._check is not None:
            try:
                self._check(name, found)
            except ConfigError as error:
                raise ConfigError(f"{self._culprit(name)} {error}") from error
        return found

    def _plugin(self, name: str, module: str, attribute: str) -> Any:
        """Import what a package adds; whatever its modules raise is named as theirs."""
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except Exception as error:
            raise ConfigError(
                f"{self._culprit(name)} cannot be imported: {type(error).__name__}: {error}. "
                f"Repair or uninstall the package."
            ) from error
        return found

    def _culprit(self, name: str) -> str:
        return f"The {self.kind} {name!r} of {self._packages[name]} ({self._table[name]})"

    def _known(self, name: str) -> str:
        names = self._entries()
        if name not in names:
            raise ConfigError(
                f"There is no {self.kind} {name!r}; there are {', '.join(names)}."
                f"{nearest(str(name), names)}"
            )
        return name
