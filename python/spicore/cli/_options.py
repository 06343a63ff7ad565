"""Command-line options made from the fields of a config and their descriptions."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from ..emc.config import Config
from ..emc.options import Options, tomllib
from ..errors import InputError

FLAGS = {"n_modes": "modes", "n_nonrotating": "nonrotating", "n_classes": "classes"}

_PREFIX = "config_"


def add_config_options(
    parser: argparse.ArgumentParser,
    config: type[Options] = Config,
    title: str = "options of the reconstruction",
) -> None:
    """Add one option per field of a config; those not given stay None."""
    described = _descriptions(config)
    group = parser.add_argument_group(title, "Also in TOML by --config; the command line wins.")
    for field in dataclasses.fields(config):
        flag = "--" + FLAGS.get(field.name, field.name).replace("_", "-")
        kind, text = described.get(field.name, ("", ""))
        if field.type == "bool":
            options: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
            default = "on" if field.default else "off"
        else:
            options = {"type": _CONVERTERS[str(field.type)], "metavar": _METAVARS[str(field.type)]}
            default = str(field.default)
            if kind.startswith("{"):  # the field's names; Config itself checks them
                options["metavar"] = kind.replace('"', "").replace(" ", "")
        group.add_argument(
            flag,
            dest=_PREFIX + field.name,
            default=None,
            help=f"{text} [{default}]".strip().replace("%", "%%"),
            **options,
        )


def add_run_options(parser: argparse.ArgumentParser, *, resume: bool) -> None:
    """Add what every long command takes: what to do with a result in DIR, and threads."""
    again = parser.add_mutually_exclusive_group()
    if resume:
        again.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    again.add_argument("--overwrite", action="store_true", help="replace the result in DIR")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="default: all cores; results do not depend on it"
    )


def add_device_option(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add --device; `several`: GPUs of a machine may share the work."""
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda", "cuda:all") if several else ("cpu", "cuda"),
        default="cpu",
        help=f"that iterates; cuda: one GPU{', cuda:all: all of them' if several else ''} [cpu]",
    )


def config_values(args: argparse.Namespace, config: type[Options] = Config) -> dict[str, Any]:
    """Return the options that were given: in the file of --config, then on the command line."""
    values = {} if args.config is None else _read_toml(args.config, config)
    for field in dataclasses.fields(config):
        value = getattr(args, _PREFIX + field.name)
        if value is not None:
            values[field.name] = value
    return values


def _read_toml(path: str, config: type[Options]) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        config.from_toml(text)  # names and values, so that messages can tell the file
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read config {path}: {reason}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return tomllib.loads(text)


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


_CONVERTERS: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "float | str": _number_or_word,
}
_METAVARS = {"int": "N", "float": "X", "str": "NAME", "float | str": "auto|X"}


def _descriptions(config: type[Options]) -> dict[str, tuple[str, str]]:
    """Return (type, text) of each field from the docstring of a config."""
    lines = inspect.cleandoc(config.__doc__ or "").splitlines()
    result: dict[str, tuple[str, str]] = {}
    name = ""
    for line in lines:
        head = re.fullmatch(r"(\w+) : (.+)", line)
        if head:
            name = head[1]
            result[name] = (head[2], "")
        elif name and line.startswith("    "):
            kind, text = result[name]
            result[name] = (kind, f"{text} {line.strip()}".strip())
        else:
            name = ""
    return result
