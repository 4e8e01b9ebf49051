"""The sandbox Registry on an event loop of its own thread, so that tests may block while it answers."""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from consumer.sandbox import Sandbox

TOKEN = "the-first-token"


class LocalRegistry(Sandbox):
    """A ``Sandbox`` for blocking tests: ``with`` instead of ``async with``, ``up`` and ``down`` for outages.

    What it remembers and its faults may be read and set from the test's thread.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**({"tokens": [TOKEN]} | settings))
        self._own_loop = asyncio.new_event_loop()
        self._own_thread = threading.Thread(target=self._own_loop.run_forever, name="registry", daemon=True)

    def __enter__(self) -> Self:
        self._own_thread.start()
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        self._own_loop.call_soon_threadsafe(self._own_loop.stop)
        self._own_thread.join()
        self._own_loop.close()

    def up(self) -> None:
        """Listen, again at the same address."""
        self._call(self.start())

    def down(self) -> None:
        """Close the socket and every connection; what is remembered stays."""
        self._call(self.stop())

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._own_loop).result(10)
