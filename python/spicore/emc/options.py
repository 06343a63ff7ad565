"""What all dataclasses of options share: checks of types, and TOML."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Self = TypeVar("Self", bound="Options")


class Options:
    """Base of frozen dataclasses whose fields are bool, int, float, str or ``float | str``."""

    def _check_types(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kinds = {"bool": bool, "int": int, "str": str}.get(str(field.type), (int, float, str))
            is_bool = isinstance(value, bool)
            if not isinstance(value, kinds) or is_bool != (kinds is bool):
                raise InputError(f"{field.name} must be of type {field.type}, got {value!r}")

    def to_toml(self) -> str:
        """Return the options as TOML text."""
        import tomli_w  # only to write: kernels and readers do without it

        return tomli_w.dumps(dataclasses.asdict(self))

    @classmethod
    def from_toml(cls: type[Self], text: str) -> Self:
        """Read options from TOML text; unknown names are an `InputError`."""
        try:
            values: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"config is not valid TOML: {error}") from None
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise InputError(
                f"config has unknown options {', '.join(unknown)}; "
                f"known are {', '.join(sorted(names))}"
            )
        return cls(**values)

    @classmethod
    def load(cls: type[Self], path: str | Path) -> Self:
        """Read options from a TOML file."""
        try:
            return cls.from_toml(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read config {path}: {error}") from None
