"""The families of a catalog. Shipped ones are read from their rows when they are asked for.

The table of the shipped families takes longer to parse than many a checkpoint to plan, and a run
asks for one of them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from streamconv.catalog.families import Family
from streamconv.catalog.toml_tables import parse_row


class FamilyTable(Mapping[str, Family]):
    """Families by name, those of the user first.

    Args:
        added: The user's families, which win over shipped ones of the same name or model type.
        shipped: The text of each row of the shipped families.
        read: Builds a family from its name and row.
    """

    def __init__(
        self,
        added: Mapping[str, Family],
        shipped: Mapping[str, str],
        read: Callable[[str, Mapping[str, Any]], Family],
    ) -> None:
        self._shipped = shipped
        self._read = read
        self._names = tuple(dict.fromkeys((*added, *shipped)))
        self._families = dict(added)

    def __getitem__(self, name: str) -> Family:
        if name not in self._families:
            self._families[name] = self._read(name, parse_row(name, self._shipped[name]))
        return self._families[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def with_model_type(self, model_type: object) -> Family | None:
        """Return the first family that has this `model_type`, or None.

        A row is only parsed if its text mentions the model type.
        """
        for name in self._names:
            if name in self._families or f'"{model_type}"' in self._shipped[name]:
                family = self[name]
                if model_type in family.model_types:
                    return family
        return None
