"""Options that are plugins themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import field

from converge.plugins.kinds import as_kind

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PLUGIN_KIND", "plugin_field"]

PLUGIN_KIND: Final = "converge_plugin_kind"
"""The key in the metadata of an attrs field that holds a plugin."""


def plugin_field(kind: str, **attributes: Any) -> Any:  # noqa: ANN401  # as attrs.field, so that checkers take it for a default
    """A field of an options class that takes a plugin of `kind`, written as a name or a `use` table, or a list of them.

    In the options object that the driver receives, the field holds the built object, or the
    list of them. `attributes` are those of
    `attrs.field`; a `default` that is a name or a table is built as well. An object in place of a table is taken as
    it is. A `kind` that does not exist is a `ValueError`.
    """
    metadata: Mapping[str, object] = attributes.pop("metadata", None) or {}
    return field(metadata={**metadata, PLUGIN_KIND: as_kind(kind)}, **attributes)
