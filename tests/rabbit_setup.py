"""Where RabbitMQ is installed, and how a private node is configured: directory, ports, settings, environment.

Nothing here starts a process. Everything a node writes lies below its ``home``; everything it listens on is a
port of ``Ports`` at its ``Place``, by default 127.0.0.1.

With ``TEST_RABBITMQ_ROOT`` RabbitMQ and Erlang are those of another Debian, whose file system is in that
directory: how the same tests run on another version (``make test-rabbitmq4``). Takes root.
"""

import os
import random
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import trustme

# Below the kernel's usual ephemeral range: no outgoing connection takes a port between choice and use.
_PORT_RANGE = range(20_000, 32_000)


#: Starts a program in the root ``$0``, in the same process, with our temporary directory at its own path.
_IN_ROOT = """
set -e
mkdir -p "$0$1"
mount --bind "$1" "$0$1"
mount --rbind /proc "$0/proc"
mount --rbind /dev "$0/dev"
shift
exec chroot "$0" "$@"
"""


@dataclass(frozen=True, slots=True)
class Installation:
    """RabbitMQ's ``sbin`` and Erlang's programs, as they are named within ``root``."""

    sbin: Path
    root: Path | None = None

    @classmethod
    def find(cls) -> Self | None:
        """Return that of ``TEST_RABBITMQ_ROOT``, or of this machine; None when there is none."""
        wanted = os.environ.get("TEST_RABBITMQ_ROOT")
        root = Path(wanted).resolve() if wanted else None
        server = _server_path(root or Path("/"))
        if server is None:
            return None
        sbin = server.parent
        return cls(sbin) if root is None else cls(Path("/") / sbin.relative_to(root), root)

    def server_command(self, name: str) -> list[str | Path]:
        """How a script of RabbitMQ is started."""
        return [*self._prefix(), self.sbin / name]

    def erlang_command(self, name: str) -> list[str | Path] | None:
        """How a program of Erlang is started; None when it is not there."""
        path = _erlang_tool(name, self.root)
        return None if path is None else [*self._prefix(), path]

    def _prefix(self) -> list[str | Path]:
        if self.root is None:
            return []
        return ["unshare", "--mount", "sh", "-c", _IN_ROOT, self.root, tempfile.gettempdir()]


def _server_path(root: Path) -> Path | None:
    """Return RabbitMQ's own start script below ``root``, None when it is not installed.

    Not the one in PATH: Debian wraps it in a script that insists on root or the user rabbitmq.
    """
    candidates = [root / "usr/lib/rabbitmq/bin/rabbitmq-server"]
    for pattern in (
        "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server",
        "opt/rabbitmq*/sbin/rabbitmq-server",
        "opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",
        "usr/local/opt/rabbitmq/sbin/rabbitmq-server",
    ):
        candidates += sorted(root.glob(pattern), reverse=True)
    found = shutil.which("rabbitmq-server") if root == Path("/") else None
    if found:
        candidates.append(Path(found))
    for candidate in candidates:
        real = candidate.resolve()
        if real.is_file() and (real.parent / "rabbitmq-env").is_file():
            return real
    return None


def _erlang_tool(name: str, root: Path | None) -> Path | None:
    """Return a program of the Erlang installation, also where it is not linked into PATH."""
    if root is None:
        found = shutil.which(name)
        if found:
            return Path(found)
        erl = shutil.which("erl")
        erlang = Path(erl).resolve().parent.parent if erl else Path("/usr/lib/erlang")
    else:
        erlang = root / "usr/lib/erlang"
    for pattern in (f"bin/{name}", f"erts-*/bin/{name}", f"lib/erl_interface-*/bin/{name}"):
        for path in sorted(erlang.glob(pattern)):
            return path if root is None else Path("/") / path.relative_to(root)
    return None


@dataclass(frozen=True, slots=True)
class Place:
    """The address that a node listens on, and the network namespace in which it runs (None: ours)."""

    host: str = "127.0.0.1"
    namespace: str | None = None

    def command(self, command: list[str | Path]) -> list[str | Path]:
        """How a program of the node is started there."""
        return command if self.namespace is None else ["ip", "netns", "exec", self.namespace, *command]


def free_port() -> int:
    """Return a free port."""
    while True:
        port = random.choice(_PORT_RANGE)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class NodeError(Exception):
    """The node did not start, or refused an administrative call."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What a node listens on; the last three only with their plugin or certificate."""

    amqp: int
    distribution: int
    epmd: int
    tls: int
    prometheus: int
    management: int

    @classmethod
    def choose(cls) -> Self:
        """Choose distinct ports that are free now."""
        ports: set[int] = set()
        while len(ports) < len(fields(cls)):
            ports.add(free_port())
        return cls(*ports)


def write_files(
    home: Path,
    ports: Ports,
    host: str,
    *,
    cookie: str,
    plugins: tuple[str, ...],
    conf: Mapping[str, object],
    tls: bool,
) -> None:
    """Lay out the node's directory: cookie, ``rabbitmq.conf``, plugins, certificates."""
    for name in ("data", "log", "conf"):
        (home / name).mkdir()
    secret = home / ".erlang.cookie"
    secret.write_text(cookie)
    secret.chmod(0o400)
    (home / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
    settings: dict[str, object] = {
        "listeners.tcp.local": f"{host}:{ports.amqp}",
        "disk_free_limit.absolute": "1MB",  # a full disk of the machine is not what the tests are about
        "vm_memory_high_watermark.relative": 0.6,
        "log.file.level": "info",
        "log.console": "false",
        "raft.wal_max_size_bytes": 64_000_000,
        "num_acceptors.tcp": 2,
    }
    if "rabbitmq_prometheus" in plugins:
        settings |= {"prometheus.tcp.ip": "127.0.0.1", "prometheus.tcp.port": ports.prometheus}
    if "rabbitmq_management" in plugins:
        settings |= {"management.tcp.ip": "127.0.0.1", "management.tcp.port": ports.management}
    if tls:
        settings |= _certificates(home / "tls", ports.tls)
    settings |= conf
    (home / "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))


def _certificates(folder: Path, port: int) -> dict[str, object]:
    folder.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(folder / "cert.pem"), append=True)
    return {
        "listeners.ssl.local": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": folder / "ca.pem",
        "ssl_options.certfile": folder / "cert.pem",
        "ssl_options.keyfile": folder / "key.pem",
        "ssl_options.verify": "verify_none",
        "ssl_options.fail_if_no_peer_cert": "false",
    }


def environment(home: Path, ports: Ports, name: str, host: str) -> dict[str, str]:
    """Return the whole environment of the node and of the tools that talk to it."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_EPMD_ADDRESS": host,
        "RABBITMQ_CONF_ENV_FILE": str(home / "no-such-file.conf"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_USE_LONGNAME": str("." in name).lower(),
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "RABBITMQ_CTL_DIST_PORT_MIN": str(_PORT_RANGE.start),
        "RABBITMQ_CTL_DIST_PORT_MAX": str(_PORT_RANGE.stop),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 -kernel inet_dist_use_interface "
        f"{{{host.replace('.', ',')}}}",
        # Makes the start script become the Erlang machine, so that our signals reach it.
        "RABBITMQ_ALLOW_INPUT": "true",
    }
