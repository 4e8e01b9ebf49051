"""Where RabbitMQ is installed, and how a private node is configured: directory, ports, settings, environment.

Nothing here starts a process. Everything a node writes lies below its ``home``; everything it listens on is a
port of ``Ports`` on 127.0.0.1.
"""

import os
import random
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import trustme

# Below the kernel's usual ephemeral range: no outgoing connection takes a port between choice and use.
_PORT_RANGE = range(20_000, 32_000)


def server_path() -> Path | None:
    """Return RabbitMQ's own start script, None when it is not installed.

    Not the one in PATH: Debian wraps it in a script that insists on root or the user rabbitmq.
    """
    candidates = [Path("/usr/lib/rabbitmq/bin/rabbitmq-server")]
    for pattern in (
        "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server",
        "opt/rabbitmq*/sbin/rabbitmq-server",
        "opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",
        "usr/local/opt/rabbitmq/sbin/rabbitmq-server",
    ):
        candidates += sorted(Path("/").glob(pattern), reverse=True)
    found = shutil.which("rabbitmq-server")
    if found:
        candidates.append(Path(found))
    for candidate in candidates:
        real = candidate.resolve()
        if real.is_file() and (real.parent / "rabbitmq-env").is_file():
            return real
    return None


def erlang_tool(name: str) -> Path | None:
    """Return a program of the Erlang installation, also where it is not linked into PATH."""
    found = shutil.which(name)
    if found:
        return Path(found)
    erl = shutil.which("erl")
    root = Path(erl).resolve().parent.parent if erl else Path("/usr/lib/erlang")
    for pattern in (f"bin/{name}", f"erts-*/bin/{name}", f"lib/erl_interface-*/bin/{name}"):
        for path in sorted(root.glob(pattern)):
            return path
    return None


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
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
    home: Path, ports: Ports, *, cookie: str, plugins: tuple[str, ...], conf: Mapping[str, object], tls: bool
) -> None:
    """Lay out the node's directory: cookie, ``rabbitmq.conf``, plugins, certificates."""
    for name in ("data", "log", "conf"):
        (home / name).mkdir()
    secret = home / ".erlang.cookie"
    secret.write_text(cookie)
    secret.chmod(0o400)
    (home / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
    settings: dict[str, object] = {
        "listeners.tcp.local": f"127.0.0.1:{ports.amqp}",
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


def environment(home: Path, ports: Ports, name: str) -> dict[str, str]:
    """Return the whole environment of the node and of the tools that talk to it."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_CONF_ENV_FILE": str(home / "no-such-file.conf"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "RABBITMQ_CTL_DIST_PORT_MIN": str(_PORT_RANGE.start),
        "RABBITMQ_CTL_DIST_PORT_MAX": str(_PORT_RANGE.stop),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}",
        # Makes the start script become the Erlang machine, so that our signals reach it.
        "RABBITMQ_ALLOW_INPUT": "true",
    }
