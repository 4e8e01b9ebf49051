"""A private RabbitMQ node for the tests: its life, and what an administrator does to it.

1. The node shares nothing with the machine: own ports (also for epmd), name and cookie; plugins file, data
   and logs in one temporary directory. It runs as any user; several may run side by side.
2. It never outlives the test run: a watchdog process reads a pipe of ours and, when that ends for whatever
   reason (also SIGKILL), kills what runs and removes the directory.
3. Administration goes through ``erl_call`` (about 10 ms a call); ``rabbitmqctl`` needs a second to start and
   is the fallback, and used for what ``eval`` cannot express.
"""

import base64
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.broker import Broker
from tests.rabbit_setup import Installation, NodeError, Place, Ports, environment, write_files

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_LOOPBACK = Place()

# Each line it reads names the process groups that run now; the end of its input is the end of the test run.
_WATCHDOG = """
while read -r line; do groups=$line; done
for group in $groups; do kill -s KILL -- "-$group"; done
rm -rf -- "$1"
"""


class RabbitNode:
    """One node; a context manager. Ports and data survive ``stop``, ``kill`` and ``restart``.

    ``plugins`` are enabled at start (``rabbitmq_prometheus``, ``rabbitmq_management``); ``conf`` is added to
    ``rabbitmq.conf``; ``tls`` adds an amqps listener with a certificate for ``localhost`` by ``ca_file``.
    Nodes of one cluster share ``ports`` and ``cookie``, each at a ``place`` of its own.
    """

    def __init__(
        self,
        *,
        plugins: tuple[str, ...] = (),
        conf: Mapping[str, object] | None = None,
        tls: bool = False,
        place: Place = _LOOPBACK,
        ports: Ports | None = None,
        cookie: str | None = None,
    ) -> None:
        installation = Installation.find()
        if installation is None:
            raise NodeError("rabbitmq-server is not installed")
        self._installation = installation
        self._erl_call = installation.erlang_command("erl_call")
        self._plugins = plugins
        self._conf = dict(conf or {})
        self._tls = tls
        self.place = place
        self._wanted_ports = ports
        self._cookie = cookie or f"{random.getrandbits(128):032x}"
        self._home: Path | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._beam: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        """The node's directory: ``data``, ``log``, ``tls``."""
        if self._home is None:
            raise NodeError("the node was never started, or is closed")
        return self._home

    @property
    def port(self) -> int:
        """The AMQP port; the others are in ``ports``."""
        return self.ports.amqp

    @property
    def name(self) -> str:
        """The node's Erlang name."""
        return self._name

    @property
    def url(self) -> str:
        """The default virtual host; tests that share a node take a ``vhost``."""
        return f"amqp://guest:guest@{self.place.host}:{self.port}//"

    @property
    def ctl_command(self) -> list[str | Path]:
        """How ``rabbitmqctl`` is started."""
        return self._installation.server_command("rabbitmqctl")

    @property
    def ca_file(self) -> Path:
        """The authority that signed the TLS listener's certificate."""
        return self.home / "tls" / "ca.pem"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the node and return when it accepts connections."""
        if self._beam is not None:
            raise NodeError("the node is already running")
        if self._home is not None:
            self._launch()
            return
        for last in (False, False, True):
            self._prepare()
            try:
                self._launch()
            except NodeError:  # another process may have taken one of the ports: choose others
                self.close()
                if last:
                    raise
            else:
                return

    def stop(self, timeout: float = _STOP_SECONDS) -> None:
        """Stop gracefully, as an operator's restart does; data stays."""
        if self._beam is not None:
            self._beam.terminate()
            try:
                self._beam.wait(timeout)
            except subprocess.TimeoutExpired:
                self._reap()
                raise NodeError(f"the node did not stop within {timeout:g} s") from None
        self._reap()

    def kill(self) -> None:
        """Kill the node with SIGKILL, as a crash of an established broker.

        RabbitMQ writes the names of quorum queues to disk a second late: a crash in the second after a queue
        was declared loses it with its confirmed messages (seen with 3.10). That is a fact about new queues;
        tests that declare and kill are not about it, so the names are synced first.
        """
        try:
            if self._runs():
                self.eval("begin [dets:sync(T) || T <- dets:all()], [] end", timeout=5)
        finally:
            self._reap()

    def restart(self) -> None:
        """Stop gracefully and start again on the same ports."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop the node's process where it is: its sockets stay open and nothing answers."""
        assert self._beam is not None
        os.killpg(self._beam.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen node go on."""
        assert self._beam is not None
        os.killpg(self._beam.pid, signal.SIGCONT)

    def repair(self) -> None:
        """Start the node if it is down and clear the memory alarm: what a test may have left behind."""
        if not self._runs():
            self._reap()
            self.start()
        self.set_memory_alarm(on=False)

    def close(self) -> None:
        """Kill the node and remove its directory; nothing remains."""
        self._reap()
        if self._watchdog is not None:
            with self._watchdog:  # closes the pipe and waits: the watchdog removes the directory
                pass
            self._watchdog = None
        self._home = None

    # --- administration -----------------------------------------------------------------

    def eval(self, expression: str, *, timeout: float = 30.0) -> str:
        """Evaluate an Erlang expression that returns iodata on the node; return its text."""
        wrapped = f'binary_to_list(base64:encode(iolist_to_binary(["=", {expression}]))).\n'
        kind = "-sname" if self.place == _LOOPBACK else "-name"
        if self._erl_call is None:
            printed = self.ctl("eval", wrapped, timeout=timeout)
        else:
            deadline = time.monotonic() + timeout
            while True:
                done = subprocess.run(
                    [*self._erl_call, "-r", kind, self._name, "-c", self._cookie, "-e"],
                    input=wrapped.encode(),
                    capture_output=True,
                    env=self._environment,
                    timeout=timeout,
                    check=False,
                )
                printed = (done.stdout + done.stderr).decode(errors="replace")
                # A busy node may refuse the handshake; nothing was evaluated, so asking again is safe.
                refused = "failed to connect" in printed and self._runs()
                if not refused or time.monotonic() >= deadline:
                    break
                time.sleep(0.05)
        match = re.search(r'"([A-Za-z0-9+/=]+)"', printed)
        if match is None or not (text := base64.b64decode(match[1]).decode()).startswith("="):
            raise NodeError(f"the node answered {printed[:1000]!r}")
        return text[1:]

    def ctl(self, *args: str, timeout: float = 60.0) -> str:
        """Run ``rabbitmqctl`` against the node and return what it printed (a second or two)."""
        done = subprocess.run(
            [*self.ctl_command, "--quiet", "--node", self._name, *args],
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise NodeError(f"rabbitmqctl {args[0]}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def set_memory_alarm(self, *, on: bool) -> None:
        """Raise or clear the memory alarm; while it is on the node reads nothing from publishers."""
        level = "0.0" if on else "0.6"
        self.eval(f"begin ok = vm_memory_monitor:set_vm_memory_high_watermark({level}), [] end")

    def add_vhost(self, name: str) -> Broker:
        """Create a virtual host that ``guest`` may do everything in."""
        self.eval(
            f'begin ok = rabbit_vhost:add(<<"{name}">>, <<"tests">>), '
            f'ok = rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, '
            '<<".*">>, <<".*">>, <<".*">>, <<"tests">>), [] end'
        )
        return Broker(self, name)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all it holds; its connections are closed."""
        self.eval(f'begin rabbit_vhost:delete(<<"{name}">>, <<"tests">>), [] end')

    # --- how it is done -----------------------------------------------------------------

    def _runs(self) -> bool:
        return self._beam is not None and self._beam.poll() is None

    def _prepare(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="rabbit-"))
        # The write end of this pipe exists in our process alone: its end is our end.
        self._watchdog = subprocess.Popen(
            ["sh", "-c", _WATCHDOG, "watchdog", str(self._home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.ports = self._wanted_ports or Ports.choose()
        host = self.place.host
        self._name = f"tests-{self.port}@{'localhost' if self.place == _LOOPBACK else host}"
        self._environment = environment(self._home, self.ports, self._name, host)
        write_files(
            self._home,
            self.ports,
            host,
            cookie=self._cookie,
            plugins=self._plugins,
            conf=self._conf,
            tls=self._tls,
        )

    def _launch(self) -> None:
        found = self._installation.erlang_command("epmd")
        epmd = [*(found or ["epmd"]), "-port", str(self.ports.epmd), "-address", self.place.host]
        try:
            with (self.home / "log" / "console").open("ab") as console:
                self._epmd = self._spawn(epmd, console)
                self._tell_watchdog()
                self._await_port(self.ports.epmd, self._epmd)
                self._beam = self._spawn(
                    [*self._installation.server_command("rabbitmq-server"), "-noinput"], console
                )
                self._tell_watchdog()
            self._await_port(self.port, self._beam)
        except BaseException:
            self._reap()
            raise

    def _tell_watchdog(self) -> None:
        assert self._watchdog is not None
        assert self._watchdog.stdin is not None
        groups = " ".join(str(process.pid) for process in (self._beam, self._epmd) if process is not None)
        self._watchdog.stdin.write(f"{groups}\n".encode())
        self._watchdog.stdin.flush()

    def _spawn(self, command: list[str | Path], console: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.place.command(command),
            env=self._environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )

    def _await_port(self, port: int, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex((self.place.host, port)) == 0:
                    return
            time.sleep(0.02)
        said = (self.home / "log" / "console").read_text(errors="replace")[-2000:]
        raise NodeError(f"{process.args!r} did not open port {port}; it said: {said}")

    def _reap(self) -> None:
        for process in (self._beam, self._epmd):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._beam = self._epmd = None
        if self._watchdog is not None:
            self._tell_watchdog()


@contextlib.contextmanager
def fresh_vhost(node: RabbitNode) -> Iterator[Broker]:
    """Lend a new virtual host and delete it afterwards."""
    name = f"v{random.getrandbits(48):012x}"
    try:
        yield node.add_vhost(name)
    finally:
        node.repair()
        node.delete_vhost(name)
