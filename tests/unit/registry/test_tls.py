"""Certificates from files: what is trusted, what is shown, and what is said of a file that cannot be used."""

from pathlib import Path

import pytest
import trustme

from consumer.errors import ConfigurationError
from consumer.registry.tls import Tls


@pytest.fixture(scope="session")
def certificate() -> bytes:
    """The certificate of an authority."""
    return trustme.CA().cert_pem.bytes()


def trusted(path: Path) -> int:
    """How many certificates are trusted."""
    return len(Tls(ca_file=path).context.get_ca_certs())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        ("# Autorit\u00e9 de certification\n".encode(), b""),
        ("# Autorit\u00e9 de certification\n".encode("latin-1"), b"\xff\xfe trailing\n"),
        (b"\xef\xbb\xbf", b""),
        (b"subject=CN = one\r\n", b"\r\n"),
    ],
    ids=["plain", "utf-8 comment", "latin-1 comment", "byte order mark", "dos lines"],
)
def test_what_stands_around_a_certificate_is_skipped(
    tmp_path: Path, certificate: bytes, before: bytes, after: bytes
) -> None:
    """The tools that make bundles write comments in any encoding; only these certificates are trusted."""
    path = tmp_path / "ca.pem"
    path.write_bytes(before + certificate + after)
    assert trusted(path) == 1


def test_another_authoritys_label_is_read(tmp_path: Path, certificate: bytes) -> None:
    """An old label, and the same certificate twice: trusted once."""
    path = tmp_path / "ca.pem"
    path.write_bytes(certificate + certificate.replace(b" CERTIFICATE", b" X509 CERTIFICATE"))
    assert trusted(path) == 1


@pytest.mark.parametrize(
    "broken",
    [
        b"-----BEGIN CERTIFICATE-----\nMIIBAA==\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nnot base64 \xe9\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIIB",
    ],
    ids=["no certificate", "no base64", "cut"],
)
def test_a_broken_certificate_among_good_ones_is_named(
    tmp_path: Path, certificate: bytes, broken: bytes
) -> None:
    """By its number and its line; what it holds is not quoted."""
    path = tmp_path / "ca.pem"
    good = b"# one\n" + certificate
    path.write_bytes(good + broken + (certificate if broken.endswith(b"-----\n") else b""))
    with pytest.raises(ConfigurationError) as caught:
        Tls(ca_file=path)
    line = good.count(b"\n") + 1
    of = 3 if broken.endswith(b"-----\n") else 2
    assert f"REGISTRY_CA_FILE: certificate 2 of {of} (line {line}) cannot be read" in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    """It would be trusted as nothing, silently."""
    empty = tmp_path / "ca.pem"
    empty.write_bytes(b"no certificate")
    for path in (empty, tmp_path / "absent.pem"):
        with pytest.raises(ConfigurationError, match="REGISTRY_CA_FILE"):
            Tls(ca_file=path)


def test_a_key_that_does_not_fit_its_certificate_is_refused(tmp_path: Path) -> None:
    """At the start, in one sentence."""
    authority = trustme.CA()
    one, two = authority.issue_cert("one.example"), authority.issue_cert("two.example")
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    one.cert_chain_pems[0].write_to_path(cert)
    two.private_key_pem.write_to_path(key)
    with pytest.raises(ConfigurationError, match="cannot be used together: key values mismatch"):
        Tls(cert_file=cert, key_file=key)
    key.write_text("no key")
    with pytest.raises(ConfigurationError, match="cannot be used together"):
        Tls(cert_file=cert, key_file=key)
    key.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        Tls(cert_file=cert, key_file=key)
