"""A py-amqp connection that answers as a test has written down, for the logic around it; no socket."""

import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any


class Channel:
    """Records each call; raises or returns the next answer of that method, None without one."""

    def __init__(self, connection: "Connection", number: int) -> None:
        self.connection, self.number = connection, number
        self.consumer: Callable[[Any], None] | None = None
        self.callbacks: dict[str, Any] = {}

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.connection.calls.append((self.number, method, args, kwargs))
            self.consumer = kwargs.get("callback", self.consumer)
            answers = self.connection.answers[method]
            answer = answers.popleft() if answers else None
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


class Connection:
    """``answers`` by method, ``events`` run one at each ``drain_events``, which times out after the last."""

    server_properties: dict[str, str]
    frame_max = 131_072
    unread_body_bytes = bytes_recv = 0

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = defaultdict[str, deque[Any]](deque, {k: deque(v) for k, v in answers.items()})
        self.events: deque[Callable[[], None]] = deque()
        self.calls: list[tuple[int, str, tuple[Any, ...], dict[str, Any]]] = []
        self.channels: list[Channel] = []
        self.server_properties = {"product": "RabbitMQ", "version": "3.10.8"}
        self.sock = SimpleNamespace(settimeout=lambda _seconds: None, close=lambda: None)
        self._transport = SimpleNamespace(sock=self.sock)
        self.closed = False

    def channel(self) -> Channel:
        self.channels.append(Channel(self, len(self.channels)))
        return self.channels[-1]

    def drain_events(self, timeout: float) -> None:
        assert timeout >= 0
        if not self.events:
            raise TimeoutError
        self.events.popleft()()

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        assert seconds > 0
        yield

    def heartbeat_tick(self) -> None:
        self.calls.append((-1, "heartbeat_tick", (), {}))

    def close(self) -> None:
        self.closed = True

    def collect(self) -> None:
        self.closed = True

    def methods(self) -> list[str]:
        """The methods that were called, in their order."""
        return [method for _, method, _, _ in self.calls]


def found(messages: int, consumers: int = 0) -> Any:
    """The answer to a passive declaration."""
    return SimpleNamespace(message_count=messages, consumer_count=consumers)


def message(tag: int, body: bytes | str = b"{}", **properties: Any) -> Any:
    """A delivery as py-amqp gives it."""
    info = {"delivery_tag": tag, "exchange": "e", "routing_key": "q", "redelivered": 0}
    return SimpleNamespace(body=body, properties=properties, delivery_info=info)
