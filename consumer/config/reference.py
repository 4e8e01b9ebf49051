"""The settings in words, generated from their fields: for ``run --help``, the docs and the error sentences.

Knows the shape of pydantic's field descriptions; holds no text about a single setting but the
default that depends on another one.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from consumer.config.settings import Settings, plain


@dataclass(frozen=True, slots=True)
class Described:
    """One setting in words; ``default`` is empty when there is none."""

    name: str
    default: str
    allowed: str
    meaning: str


def allowed(field: FieldInfo) -> str:
    """Say what a value may be: ``a whole number from 1 to 65535``, ``one of json, text``, ..."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and extra.get("allowed"):
        return str(extra["allowed"])
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(get_args(field.annotation))}"
    if field.annotation is bool:
        return "true or false"
    bounds = {
        key: getattr(rule, key) for rule in field.metadata for key in ("ge", "le") if hasattr(rule, key)
    }
    kind = "a whole number" if field.annotation is int else "a number"
    return f"{kind} from {bounds['ge']} to {bounds['le']}"


def described() -> Iterator[Described]:
    """Every setting in the order of the fields, then the secrets directory."""
    for name, field in Settings.model_fields.items():
        default = field.default
        if field.default_factory is not None:
            default = "twice REGISTRY_CONCURRENCY"
        elif isinstance(default, SecretStr):
            default = default.get_secret_value()  # a public default (guest), never a configured value
        yield Described(
            name.upper(),
            "" if default is None else plain(default),
            allowed(field),
            field.description or "",
        )
    yield Described(
        "SECRETS_DIR",
        "/run/secrets/journey-consumer, when it exists",
        "an existing directory",
        "Directory of files named like these variables, each holding one value; the environment wins.",
    )


def settings_reference(width: int = 100) -> str:
    """List all settings as text for ``journey-consumer run --help``."""
    lines = []
    for setting in described():
        default = f"  [{setting.default}]" if setting.default else ""
        lines.append(f"  {setting.name}{default}")
        text = f"{setting.meaning} ({setting.allowed})"
        lines.append(textwrap.fill(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(lines)
