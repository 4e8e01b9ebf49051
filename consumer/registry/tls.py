"""Whom the Registry's client trusts, and the certificate that it shows.

1. TLS 1.2 or newer; certificate chain and host name are always verified.
2. A CA file replaces the usual certificates. Every certificate in it must be readable.
3. A client certificate is read again when its files change. Two files that do not fit together (a rotation
   halfway) are not taken: the previous pair stays.
4. No text quotes a file's content.
"""

import logging
import os
import ssl
from pathlib import Path
from typing import Final

import certifi

from consumer.errors import ConfigurationError

log = logging.getLogger("journey_consumer.registry")

_BEGIN: Final = (b"-----BEGIN CERTIFICATE-----", b"-----BEGIN X509 CERTIFICATE-----")
_END: Final = b"-----END "


class Tls:
    """The TLS settings of connections to the Registry. Raises ConfigurationError when a file is unusable.

    ``context`` is one object for the whole life: a new client certificate is loaded into it.
    """

    def __init__(
        self,
        *,
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
    ) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca_file is None:
            _trust_as_usual(self.context)
        else:
            _trust(self.context, Path(ca_file))
        self._pair = None if cert_file is None or key_file is None else (Path(cert_file), Path(key_file))
        self._seen: object = None
        if self._pair is not None:
            self._seen = _stamp(self._pair)
            _load_pair(self.context, self._pair)

    def refresh(self) -> None:
        """Load the client certificate again if its files have changed. To be called before connecting."""
        if self._pair is None or (stamp := _stamp(self._pair)) == self._seen:
            return
        self._seen = stamp
        try:
            _load_pair(self.context, self._pair)
        except ConfigurationError as error:
            log.warning("client certificate not renewed", extra={"reason": str(error)})
        else:
            log.info("client certificate renewed")


def _stamp(pair: tuple[Path, Path]) -> object:
    """What changes when a file is written, replaced, or its symbolic link is (as Kubernetes does)."""
    stamps: list[tuple[int, int, int] | None] = []
    for path in pair:
        try:
            found = path.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((found.st_mtime_ns, found.st_ino, found.st_size))
    return stamps


def _load_pair(context: ssl.SSLContext, pair: tuple[Path, Path]) -> None:
    """Load both files, or neither: OpenSSL would keep the certificate of a pair whose key does not fit."""
    try:
        # The empty password keeps OpenSSL from asking for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(*pair, password="")
        context.load_cert_chain(*pair, password="")
    except ssl.SSLError as error:
        reason = (error.reason or "not PEM").replace("_", " ").lower()
        raise ConfigurationError(
            [f"REGISTRY_CLIENT_CERT_FILE and REGISTRY_CLIENT_KEY_FILE cannot be used together: {reason}"]
        ) from None
    except OSError as error:
        raise ConfigurationError(
            [f"REGISTRY_CLIENT_CERT_FILE or REGISTRY_CLIENT_KEY_FILE cannot be read: {error.strerror}"]
        ) from None


def _trust_as_usual(context: ssl.SSLContext) -> None:
    """Trust the system's certificates, or in an image without any those that come with certifi."""
    context.set_default_verify_paths()
    directory = ssl.get_default_verify_paths().capath  # its certificates are read when they are needed
    if not context.cert_store_stats()["x509_ca"] and not (directory and any(os.scandir(directory))):
        context.load_verify_locations(certifi.where())


def _trust(context: ssl.SSLContext, path: Path) -> None:
    """Trust the certificates of a PEM file, whatever stands around them: comments, a byte order mark."""
    try:
        pem = path.read_bytes().replace(_BEGIN[1], _BEGIN[0])
    except OSError as error:
        raise ConfigurationError([f"REGISTRY_CA_FILE cannot be read: {error.strerror}"]) from None
    before, *blocks = pem.split(_BEGIN[0])
    if not blocks:
        raise ConfigurationError(["REGISTRY_CA_FILE: no certificate in the file"])
    line = 1 + before.count(b"\n")
    for number, block in enumerate(blocks, 1):
        base64 = block.partition(_END)[0]
        try:
            context.load_verify_locations(cadata=ssl.PEM_HEADER + base64.decode("ascii") + ssl.PEM_FOOTER)
        except (ssl.SSLError, UnicodeDecodeError):
            raise ConfigurationError(
                [f"REGISTRY_CA_FILE: certificate {number} of {len(blocks)} (line {line}) cannot be read"]
            ) from None
        line += block.count(b"\n")
