"""From an operator's own event to the Registry's payload, as one declarative file says.

1. A mapping is a tree like the payload's. A leaf is a JMESPath expression, or ``{const: value}``. There is no
   code: expressions may call JMESPath's functions and those of ``_Functions``.
2. What an expression does not find is left out, and so is an object of which nothing but constants is left. A
   field that the version requires, or that a function cannot make, is named as ``mapping at field``.
3. Mistakes of the file are found when it is loaded: expressions, functions, fields that the version lacks.
4. Pure, apart from reading the file. No value of an event gets into an error.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import jmespath
import yaml
from jmespath import exceptions, functions

import schemas
from consumer.errors import ConfigurationError
from schemas.phone import e164

SHIPPED = Path(__file__).parent / "mappings"
_CONST = "const"
_MILLISECONDS = 100_000_000_000  # as seconds this is the year 5138, as milliseconds 1973
_HIDDEN_DIGITS = 2
_TYPES = {"types": ["string", "number", "null"]}


class _UnmappableError(Exception):
    """A function cannot make its value; never carries what it was given."""


class _Functions(functions.Functions):
    """The functions of mappings. Each returns null for null: what is not there is left out."""

    @functions.signature(_TYPES)
    def _func_e164(self, phone: Any) -> str | None:
        """A telephone number in E.164; French without a country code."""
        return None if phone is None else _e164(str(phone))

    @functions.signature(_TYPES)
    def _func_phone_trunc(self, phone: Any) -> str | None:
        """The same without its last two digits."""
        return None if phone is None else _e164(str(phone))[:-_HIDDEN_DIGITS]

    @functions.signature(_TYPES, {"types": ["string", "null"]})
    def _func_identity_key(self, phone: Any, last_name: Any) -> str | None:
        """sha256 of "{phone in E.164}-{LAST NAME}" (specification of API v3.3)."""
        if phone is None or last_name is None:
            return None
        return hashlib.sha256(f"{_e164(str(phone))}-{_upper_ascii(last_name)}".encode()).hexdigest()

    @functions.signature({"types": ["string", "null"]})
    def _func_upper_ascii(self, text: Any) -> str | None:
        """In capitals, without accents, hyphens and apostrophes as spaces."""
        return None if text is None else _upper_ascii(text)

    @functions.signature(_TYPES)
    def _func_cents(self, euros: Any) -> int | None:
        """Euros (12.5 or "12.50") in cents."""
        if euros is None:
            return None
        cents = _decimal(euros) * 100
        if cents != cents.to_integral_value():
            raise _UnmappableError
        return int(cents)

    @functions.signature(_TYPES)
    def _func_metres(self, kilometres: Any) -> int | None:
        """Kilometres in metres, rounded."""
        return None if kilometres is None else round(_decimal(kilometres) * 1000)

    @functions.signature(_TYPES)
    def _func_utc(self, moment: Any) -> str | None:
        """ISO 8601 with a zone, or seconds or milliseconds since 1970, as the Registry reads dates."""
        return None if moment is None else _utc(moment)

    @functions.signature({"types": ["array", "null"]})
    def _func_indexed(self, items: Any) -> list[Any] | None:
        """Objects with ``index`` 0, 1, 2, ..., nulls left out."""
        kept = [item for item in items or () if isinstance(item, dict)]
        return None if items is None else [{**item, "index": index} for index, item in enumerate(kept)]


_OPTIONS = jmespath.Options(custom_functions=_Functions())
_KNOWN_FUNCTIONS = frozenset(_OPTIONS.custom_functions.FUNCTION_TABLE)


def _e164(phone: str) -> str:
    if (number := e164(phone)) is None:
        raise _UnmappableError
    return number


def _upper_ascii(text: str) -> str:
    for ligature, letters in (("œ", "oe"), ("Œ", "OE"), ("æ", "ae"), ("Æ", "AE")):
        text = text.replace(ligature, letters)
    plain = unicodedata.normalize("NFKD", text.upper())
    spaced = re.sub(r"[-'\u2019\u2010\u2011\s]+", " ", plain)
    kept = "".join(each for each in spaced if not unicodedata.combining(each)).strip()
    if not kept.isascii():
        raise _UnmappableError
    return kept


def _decimal(value: Any) -> Decimal:
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        raise _UnmappableError from None
    if isinstance(value, bool) or not number.is_finite() or abs(number) > 10**12:
        raise _UnmappableError
    return number


def _utc(moment: Any) -> str:
    try:
        if isinstance(moment, str) and not re.fullmatch(r"\d+(\.\d+)?", moment, re.ASCII):
            read = datetime.fromisoformat(moment.upper())
            if read.tzinfo is None:
                raise _UnmappableError
        else:
            number = float(moment)
            read = datetime.fromtimestamp(number / 1000 if abs(number) >= _MILLISECONDS else number, UTC)
        return read.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        raise _UnmappableError from None


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One field: an expression, or a constant."""

    path: str
    expression: Any = None
    constant: Any = None


_Tree = dict[str, "_Tree | _Leaf"]


class EventMapping:
    """A loaded mapping; ``load`` checks the file."""

    def __init__(self, tree: _Tree) -> None:
        self._tree = tree

    def apply(self, body: bytes) -> bytes | str:
        """Return the payload of an event as JSON, or why there is none: ``code`` or ``code at field``."""
        if len(body) > schemas.MAX_BODY_BYTES:
            return "too_large"
        if schemas.is_too_complex(body):
            return "too_complex"
        try:
            payload = _build(self._tree, json.loads(body)) or {}
            return json.dumps(payload, separators=(",", ":"), allow_nan=False).encode()
        except _FieldError as error:
            return f"mapping at {error.path}"
        except ValueError:
            return "not_json"
        except RecursionError:
            return "nested_too_deep"


class _FieldError(Exception):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def _build(tree: _Tree, event: Any) -> dict[str, Any] | None:
    """The object of a part of the tree; None when nothing of it was found in the event."""
    made, found = dict[str, Any](), False
    for name, node in tree.items():
        if isinstance(node, dict):
            value: Any = _build(node, event)
        elif node.expression is None:
            made[name] = node.constant
            continue
        else:
            value = _search(node, event)
        if value is not None:
            made[name], found = value, True
    return made if found else None


def _search(leaf: _Leaf, event: Any) -> Any:
    try:
        return _without_nulls(leaf.expression.search(event, options=_OPTIONS))
    except (_UnmappableError, exceptions.JMESPathError, ValueError, TypeError, RecursionError):
        raise _FieldError(leaf.path) from None


def _without_nulls(value: Any) -> Any:
    """Leave out what is null inside of what an expression makes: the Registry refuses null."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


# --- loading ----------------------------------------------------------------------------------


def load(file: Path, version: schemas.Version) -> EventMapping:
    """Read and check a mapping: a file, or the name of one in ``SHIPPED``. Raises ConfigurationError."""
    try:
        shipped = SHIPPED / f"{file}.yaml"
        source = yaml.safe_load((shipped if shipped.is_file() else file).read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError([f"the mapping cannot be read: {error.strerror}"]) from None
    except (yaml.YAMLError, ValueError):
        raise ConfigurationError(["the mapping is not YAML"]) from None
    if not isinstance(source, dict):
        raise ConfigurationError(["the mapping must give expressions for fields of the payload"])
    problems: list[str] = []
    tree = _read(source, "", frozenset(schemas.field_paths(version)), problems)
    if problems:
        raise ConfigurationError(problems)
    return EventMapping(tree)


def _read(source: Mapping[Any, Any], prefix: str, known: frozenset[str], problems: list[str]) -> _Tree:
    tree: _Tree = {}
    for name, node in source.items():
        path = f"{prefix}{name}"
        if path not in known:
            problems.append(f"{path}: the version has no such field")
        elif isinstance(node, dict) and node.keys() == {_CONST}:
            tree[name] = _Leaf(path, constant=node[_CONST])
        elif isinstance(node, dict):
            tree[name] = _read(node, f"{path}.", known, problems)
        elif isinstance(node, str):
            try:
                expression = jmespath.compile(node)
            except exceptions.JMESPathError:
                problems.append(f"{path}: {node!r} is not a JMESPath expression")
                continue
            unknown = sorted(set(_called(expression.parsed)) - _KNOWN_FUNCTIONS)
            problems += [f"{path}: there is no function {each!r}" for each in unknown]
            tree[name] = _Leaf(path, expression)
        else:
            problems.append(f"{path}: must be an expression, {{const: value}} or fields")
    return tree


def _called(node: Any) -> Iterator[str]:
    """The functions that an expression calls."""
    if node["type"] == "function_expression":
        yield node["value"]
    for child in node["children"]:
        if isinstance(child, dict):
            yield from _called(child)
