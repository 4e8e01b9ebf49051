"""TLS on real sockets: whom we trust, and the certificate that we show."""

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from consumer.core.reply import Fault, FaultKind, Reply
from consumer.registry.tls import Tls
from tests.integration.registry.servers import OK, Connect, Serve, answering, server_context

TOKEN = "token-of-the-test"
BODY = b'{"journey_id": "1"}'


async def test_an_unknown_authority_is_not_trusted(
    serve: Serve, connect: Connect, authority: trustme.CA
) -> None:
    """No request leaves before the certificate is verified."""
    server = await serve(answering(OK), server_context(authority, "localhost"))
    found = await connect(f"https://localhost:{server.port}").post_journey(BODY, TOKEN)
    assert found == Fault(FaultKind.TLS, "TlsError")


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The authority's certificate, second in a bundle."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_bytes(trustme.CA().cert_pem.bytes() + authority.cert_pem.bytes())
    return str(path)


async def test_another_hosts_certificate_is_not_trusted(
    serve: Serve, connect: Connect, authority: trustme.CA, ca_file: str
) -> None:
    """The authority is known, the name is another."""
    server = await serve(answering(OK), server_context(authority, "registry.example"))
    found = await connect(f"https://localhost:{server.port}", ca_file=ca_file).post_journey(BODY, TOKEN)
    assert found == Fault(FaultKind.TLS, "TlsError")


async def test_a_ca_file_is_trusted(
    serve: Serve, connect: Connect, authority: trustme.CA, ca_file: str
) -> None:
    """A private authority works by its file, also as the second certificate in it."""
    server = await serve(answering(OK), server_context(authority, "localhost"))
    found = await connect(f"https://localhost:{server.port}", ca_file=ca_file).post_journey(BODY, TOKEN)
    assert isinstance(found, Reply)
    assert found.status == 201


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
async def test_an_old_tls_is_refused(
    serve: Serve, connect: Connect, authority: trustme.CA, ca_file: str
) -> None:
    """TLS 1.1 is not spoken, even to a server that we trust."""
    context = server_context(authority, "localhost")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    server = await serve(answering(OK), context)
    found = await connect(f"https://localhost:{server.port}", ca_file=ca_file).post_journey(BODY, TOKEN)
    assert found == Fault(FaultKind.TLS, "TlsError")


async def test_a_machine_without_certificates_trusts_what_httpx_trusts(
    serve: Serve, connect: Connect, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slim image starts all the same, and still refuses an unknown authority."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    plain = await serve(answering(OK))
    assert isinstance(await connect(plain).post_journey(BODY, TOKEN), Reply)
    server = await serve(answering(OK), server_context(authority, "localhost"))
    found = await connect(f"https://localhost:{server.port}").post_journey(BODY, TOKEN)
    assert found == Fault(FaultKind.TLS, "TlsError")


async def test_a_ca_file_replaces_the_usual_certificates(
    serve: Serve, connect: Connect, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names an authority trusts no other one."""
    usual = tmp_path / "usual.pem"
    authority.cert_pem.write_to_path(usual)
    monkeypatch.setenv("SSL_CERT_FILE", str(usual))
    server = await serve(answering(OK), server_context(authority, "localhost"))
    url = f"https://localhost:{server.port}"
    assert isinstance(await connect(url).post_journey(BODY, TOKEN), Reply)
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    found = await connect(url, ca_file=other).post_journey(BODY, TOKEN)
    assert found == Fault(FaultKind.TLS, "TlsError")


class _ClientFiles:
    """A certificate and its key in files, as they are mounted."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"

    def write(self, issued: trustme.LeafCert, *, key: bool = True) -> None:
        issued.cert_chain_pems[0].write_to_path(self.cert)
        if key:
            issued.private_key_pem.write_to_path(self.key)


def _demanding(authority: trustme.CA, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = server_context(authority, "localhost")
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("transport", ["ours"], indirect=True)  # httpx drops the reason
async def test_a_server_that_wants_a_client_certificate_is_told_as_that(
    connect: Connect, authority: trustme.CA, ca_file: str
) -> None:
    """It refused the handshake, so that nothing was processed."""

    def refuse(listener: socket.socket) -> None:  # in a thread: the loops' own servers drop the alert
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            secured = _demanding(authority).wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
            with secured, pytest.raises(ssl.SSLError):
                secured.do_handshake()
            while connection.recv(65_536):  # a reset would take the alert with it
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(refuse, listener))
        url = f"https://localhost:{listener.getsockname()[1]}"
        found = await connect(url, ca_file=ca_file).post_journey(BODY, TOKEN)
        await serving
    assert found == Fault(FaultKind.TLS, "ClientCertificateError")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_certificate_is_shown(  # noqa: PLR0917
    serve: Serve,
    connect: Connect,
    authority: trustme.CA,
    ca_file: str,
    tmp_path: Path,
    version: ssl.TLSVersion,
) -> None:
    """To journeys and to what is rare alike."""
    files = _ClientFiles(tmp_path)
    files.write(authority.issue_cert("client.example"))
    server = await serve(answering(OK), _demanding(authority, version))
    tls = Tls(ca_file=ca_file, cert_file=files.cert, key_file=files.key)
    client = connect(f"https://localhost:{server.port}", tls=tls)
    assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
    assert isinstance(await client.get_front_page(), Reply)


async def test_a_client_certificate_is_read_again_when_it_changes(
    serve: Serve, connect: Connect, authority: trustme.CA, ca_file: str, tmp_path: Path
) -> None:
    """A rotation halfway keeps the old pair; the next connection after it shows the new one."""
    shown: list[str] = []

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (name,) = (
            value for kind, value in writer.get_extra_info("peercert")["subjectAltName"] if kind == "DNS"
        )
        shown.append(name)
        await answering(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), close=True)(reader, writer)

    files = _ClientFiles(tmp_path)
    files.write(authority.issue_cert("old.example"))
    server = await serve(look, _demanding(authority))
    tls = Tls(ca_file=ca_file, cert_file=files.cert, key_file=files.key)
    client = connect(f"https://localhost:{server.port}", tls=tls)
    assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
    new = authority.issue_cert("a-new-and-longer-name.example")
    files.write(new, key=False)
    assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
    files.write(new)
    assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
    assert shown == ["old.example", "old.example", "a-new-and-longer-name.example"]
