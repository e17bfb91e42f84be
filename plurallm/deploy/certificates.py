"""Make what TLS needs: an authority of our own, and the server's certificate that it signs.

Nothing that is there is written over: to renew the server's certificate, move ``server.crt`` and
``server.key`` away and run this again with the same authority.
"""

import argparse
import ipaddress
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 5 * 365
SERVER_DAYS = 398  # what browsers take, and a reminder once a year
LOCAL = ("localhost", "127.0.0.1")  # how the server's own commands reach it
LABEL = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""Between the dots of a host name (RFC 1123, section 2.1)."""


def main(arguments: Sequence[str]) -> int:
    """Make the certificates: 0 done, 2 refused."""
    about = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="plurallm certificates", description=about)
    parser.add_argument("folder", type=Path, help="where they go; made when missing")
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="host name or IP address that nodes will dial"
    )
    options = parser.parse_args(arguments)
    try:
        make_certificates(options.folder, options.names)
    except (ValueError, OSError) as error:
        print(f"certificates: {error}", file=sys.stderr)
        return 2
    return 0


def make_certificates(folder: Path, names: Sequence[str]) -> None:
    """Make ``ca.crt``, ``ca.key``, ``server.crt`` and ``server.key`` in a folder.

    Raises
    ------
    FileExistsError
        When the server's certificate is there, or half of the authority.
    ValueError
        For a name that is none.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    alternative = _names([*LOCAL, *names])
    for file in ("server.crt", "server.key"):
        if (folder / file).exists():
            raise FileExistsError(f"{folder / file} is there: move it away to have a new one")
    authority, authority_key = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name(names[0]), authority.subject, SERVER_DAYS, key)
        .add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, SHA256())
    )
    _write_pair(folder, "server", certificate, key)
    expiry = certificate.not_valid_after_utc.date()
    print(f"{folder}: server.crt for {', '.join([*LOCAL, *names])}, good until {expiry}")
    print(f"Give {folder / 'ca.crt'} to every data holder; keep ca.key and server.key to yourself")


def local_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate, and its key, for a port of 127.0.0.1 that lives until the next call.

    It signs itself: who trusts it trusts that one process alone.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("PluralLLM node")
    certificate = (
        _builder(name, name, SERVER_DAYS, key)
        .add_extension(x509.SubjectAlternativeName(_names(LOCAL)), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(digital_signature=True, key_cert_sign=True), critical=True)
        .sign(key, SHA256())
    )
    for file in (folder / "runtime.key", folder / "runtime.crt"):
        file.unlink(missing_ok=True)
    _write_pair(folder, "runtime", certificate, key)
    return folder / "runtime.crt", folder / "runtime.key"


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Read the authority, or make it where there is none."""
    certificate_file, key_file = folder / "ca.crt", folder / "ca.key"
    check_pair(key_file, certificate_file)
    if certificate_file.exists():
        key = load_pem_private_key(key_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return x509.load_pem_x509_certificate(certificate_file.read_bytes()), key
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("PluralLLM authority")
    certificate = (
        _builder(name, name, AUTHORITY_DAYS, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    _write_pair(folder, "ca", certificate, key)
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, days: int, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + timedelta(days=days))
    )


def _names(texts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for text in dict.fromkeys(map(str.lower, texts)):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            *_, last = labels = text.split(".")
            # Only addresses end in a number (RFC 3696, section 2).
            if len(text) > 253 or last.isdigit() or not all(map(LABEL.fullmatch, labels)):
                raise ValueError(f"{text!r} is neither a host name nor an IP address") from None
            names.append(x509.DNSName(text))
    return names


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _usage(**named: bool) -> x509.KeyUsage:
    every = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{use: named.get(use, False) for use in every})


def _write_pair(
    folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_new(folder / f"{name}.key", secret, 0o600)
    write_new(folder / f"{name}.crt", certificate.public_bytes(Encoding.PEM), 0o644)


def check_pair(secret: Path, public: Path) -> None:
    """Refuse half a pair: the other half would not fit it, and others may know what is there."""
    for here, missing in ((secret, public), (public, secret)):
        if here.exists() and not missing.exists():
            raise FileExistsError(f"{here} is there without {missing.name}: move it away, or back")


def check_private(key: Path) -> None:
    """Refuse a private key that others may read: it may be theirs already."""
    if key.stat().st_mode & 0o077:
        raise PermissionError(f"others may read {key}: make a new one, or chmod 600 {key}")


def check_certificate(file: Path, hint: str) -> None:
    """Refuse what is no certificate, or one whose time is over; `hint` says what to do then."""
    try:
        expiry = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    except ValueError as error:
        raise ValueError(f"{file} holds no certificate in PEM form: {hint}") from error
    if expiry <= datetime.now(UTC):
        raise ValueError(f"{file} expired on {expiry.date()}: {hint}")


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that is not there yet, readable to nobody else at any time."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
