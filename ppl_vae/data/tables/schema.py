"""What further rows need to be read as those of training: columns, types, kinds and levels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import compress, zip_longest
from typing import Any, Self

from ppl_vae.data.tables.covariates import Covariates
from ppl_vae.data.tables.layout import Layout
from ppl_vae.data.tables.levels import listed
from ppl_vae.data.tables.text_files import Missing

__all__ = ["Schema"]


@dataclass(frozen=True)
class Schema:
    """The columns of a data set without its rows.

    Args:
        name: Name of the data set.
        event_shape: Shape of one observation.
        columns: The columns of x; those of images have no names.
        covariates: The columns of the covariates, as they were given.
        kinds: Kind of each column of x; empty for images and for rows in a file.
        is_named: Whether the columns of x came with names.
        dtype: Floating type of x.
        missing: Which cells of text files are missing.

    Example:
        >>> from ppl_vae.data import Dataset
        >>> data = Dataset([[0.5, 1.0]], feature_names=["weight", "height"])
        >>> schema = Schema.from_json(data.schema.to_json())
        >>> schema == data.schema, schema.names
        (True, ('weight', 'height'))
    """

    name: str
    event_shape: tuple[int, ...]
    columns: Layout
    covariates: Covariates
    kinds: tuple[str, ...]
    is_named: bool
    dtype: str
    missing: Missing = Missing()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of x in a table; empty where it has none."""
        return tuple(map(str, self.columns.names)) if self.is_named else ()

    @property
    def context(self) -> tuple[str, ...]:
        """Names of the columns of covariates, as they were given."""
        return tuple(map(str, self.covariates.layout.names))

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Levels of the categories, of x and of the covariates."""
        return {**self.columns.levels, **self.covariates.layout.levels}

    def difference(self, other: Self) -> str:
        """The first column that has another name or other levels, in words; "" if none has.

        Columns without names are equal to all, and further levels may be those of no row.
        """
        are_named = [self.is_named and other.is_named]
        are_named += [self.covariates.are_named and other.covariates.are_named]
        pairs = [(each.columns, each.covariates.layout) for each in (self, other)]
        for before, now in compress(zip(*pairs, strict=True), are_named):
            names = zip_longest(map(str, before.names), map(str, now.names))
            for place, (name, given) in enumerate(names):
                if name != given:
                    return f"column {place} of {now.what}, which was {name!r} and is {given!r}"
                levels, found = (layout.levels.get(name, ()) for layout in (before, now))
                num = min(len(levels), len(found)) or None
                if now.is_frame and levels[:num] != found[:num]:
                    said = f"had {_in_words(levels)} and has {_in_words(found)}"
                    return f"column {name!r} of {now.what}, which {said}"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Values of JSON."""
        return {
            "name": self.name,
            "event_shape": list(self.event_shape),
            "columns": _written(self.columns),
            "covariates": _written(self.covariates.layout),
            "covariates_are_named": self.covariates.are_named,
            "kinds": list(self.kinds),
            "is_named": self.is_named,
            "dtype": self.dtype,
            "na_values": list(self.missing.na_values),
            "keep_default_na": self.missing.keep_default_na,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The schema in values of JSON."""
        covariates = Covariates(
            _read(values["covariates"], "context"), are_named=values["covariates_are_named"]
        )
        schema = cls(
            name=values["name"],
            event_shape=tuple(values["event_shape"]),
            columns=_read(values["columns"], "x"),
            covariates=covariates,
            kinds=tuple(values["kinds"]),
            is_named=values["is_named"],
            dtype=values["dtype"],
        )
        na_values = tuple(values.get("na_values", ()))  # not in runs of earlier versions
        return replace(schema, missing=Missing(na_values, values.get("keep_default_na", True)))


def _in_words(levels: tuple[str, ...]) -> str:
    """The levels of a column, which has numbers if it has none."""
    return f"levels {listed(levels)}" if levels else "numbers"


def _written(layout: Layout) -> dict[str, Any]:
    """A layout in values of JSON."""
    return {
        "names": [name if isinstance(name, str) else _plain(name) for name in layout.names],
        "types": list(layout.types),
        "levels": {name: list(levels) for name, levels in layout.levels.items()},
        "is_frame": layout.is_frame,
    }


def _plain(name: Any) -> str | int:
    """A number of a column, or its name as text."""
    return int(name) if hasattr(name, "__index__") else str(name)


def _read(values: Mapping[str, Any], what: str) -> Layout:
    """The layout in values of JSON."""
    return Layout(
        names=tuple(values["names"]),
        types=tuple(values["types"]),
        levels={name: tuple(levels) for name, levels in values["levels"].items()},
        is_frame=values["is_frame"],
        what=what,
    )
