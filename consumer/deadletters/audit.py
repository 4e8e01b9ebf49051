"""Files that are on the disk before a dead letter is removed: the audit trail, the archive, the export.

1. ``write`` returns when the lines are on the disk, or raises; only then is anything acknowledged.
2. Files with payloads are readable by their owner alone. Audit lines hold ids, codes, user and reason.
3. A line that a full disk cut off stays one bad line: the next one begins on a new line.
"""

import base64
import getpass
import json
import os
import stat
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, TextIO

from consumer.core.clock import iso_utc
from consumer.core.delivery import Delivery
from consumer.deadletters.record import payload_of
from consumer.deadletters.sweep import DeadLetterMessage
from consumer.errors import ConsumerError


class DurableJsonlFile:
    """JSON Lines appended to a file, or to ``fallback`` (standard output); a context manager.

    ``fresh``: the file must not exist yet. ``private``: what goes in is for its owner alone. ``hint`` says
    what to do when it cannot be opened.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        fresh: bool = False,
        private: bool = False,
        fallback: TextIO | None = None,
        hint: str = "",
    ) -> None:
        self._path = path
        self._private = private
        self._fallback = fallback
        self._hint = hint
        # Without O_NONBLOCK opening a pipe without a reader would block, and no signal would end it.
        self._flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | (os.O_EXCL if fresh else os.O_APPEND)
        self._descriptor: int | None = None
        self._is_file = True
        self._torn = False

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._descriptor = os.open(self._path, self._flags, 0o600)
            except OSError as error:
                raise ConsumerError(f"{self._path} cannot be written: {error.strerror}{self._hint}") from None
            os.set_blocking(self._descriptor, True)
            mode = os.fstat(self._descriptor).st_mode
            self._is_file = stat.S_ISREG(mode)
            if self._private and self._is_file and mode & (stat.S_IRWXG | stat.S_IRWXO):
                self.__exit__()
                raise ConsumerError(f"{self._path} can be read by other users: chmod 600 it first")
            self._torn = _is_torn(self._path)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write one line for each and return when the disk has them. Raises ConsumerError."""
        text = "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines)
        if self._descriptor is None:
            stream = self._fallback or sys.stdout
            if (sys.__stderr__ if stream is sys.stderr else sys.__stdout__) is None:
                raise ConsumerError("the audit lines need --audit FILE when the output is closed")
            try:
                stream.write(text)
                stream.flush()
            except OSError as error:
                raise ConsumerError(f"the audit lines cannot be written: {error.strerror}") from None
            return
        if self._torn and text:
            text, self._torn = f"\n{text}", False
        try:
            left = memoryview(text.encode())
            while left:
                left = left[os.write(self._descriptor, left) :]
            if self._is_file:  # a terminal or a pipe has no disk
                os.fsync(self._descriptor)
        except OSError as error:
            raise ConsumerError(f"{self._path} cannot be written: {error.strerror}") from None


def _is_torn(path: Path) -> bool:
    """Whether a file ends in the middle of a line."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:  # it is empty, or may not be read
        return False


def audit_line(action: str, dead: DeadLetterMessage, now: datetime, **more: Any) -> dict[str, Any]:
    """One action on one dead letter: ids, codes, who and when; no value of the payload."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's numeric user without an entry
        user = str(os.getuid())
    shown = dead.record.as_json(now)
    return {
        "ts": iso_utc(now),
        "event": f"dead letter {action}",
        "by": user,
        **{
            name: shown[name]
            for name in ("journey_id", "message_id", "reason", "detail", "status", "deadline")
        },
        "key": dead.key,
        **more,
    }


def archive_line(dead: DeadLetterMessage) -> dict[str, Any]:
    """All of a dead letter, so that it could be published again: body, properties, headers.

    Types that JSON does not have are ``{"$bytes": base64}``, ``{"$time": ISO 8601}``, ``{"$decimal": text}``.
    """
    headers = {name: value for name, value in dead.delivery.headers.items() if name != "x-delivery-count"}
    return {
        "key": dead.key,
        "reason": dead.record.reason,
        "properties": _tagged(dead.delivery.properties),
        "headers": _tagged(headers),
        **body_of(dead.delivery),
    }


def _tagged(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(name): _tagged(each) for name, each in value.items()}
        case list() | tuple():
            return [_tagged(each) for each in value]
        case bytes() | memoryview():
            return {"$bytes": base64.b64encode(value).decode()}
        case datetime():  # the wire's timestamps are UTC and have no zone
            aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
            return {"$time": aware.isoformat().replace("+00:00", "Z")}
        case Decimal():
            return {"$decimal": str(value)}
    return value


def export_line(dead: DeadLetterMessage, now: datetime) -> dict[str, Any]:
    """A dead letter to edit: its ``key``, why it is dead, and the payload."""
    payload = payload_of(dead.delivery)
    shown = dead.record.as_json(now)
    return {
        "key": dead.key,
        **{name: shown[name] for name in ("reason", "detail", "status", "deadline")},
        **({"payload": payload} if payload is not None else body_of(dead.delivery)),
    }


def body_of(delivery: Delivery) -> dict[str, str]:
    """The body as text, or in base64 when it is not UTF-8."""
    try:
        return {"body": delivery.body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(delivery.body).decode()}
