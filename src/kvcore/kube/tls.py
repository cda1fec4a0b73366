# SPDX-License-Identifier: Apache-2.0
"""Certificates of a server that makes its own, and the TLS contexts built from them.

    CA ─┬─> apiserver   serving: localhost, 127.0.0.1, ::1, this host, kubernetes.default.svc, ...
        └─> admin       client: CN=kubernetes-admin, O=system:masters

Kept as PEM files in a directory (`pki/` of the data directory; keys readable by their owner only),
or in memory alone. Made on the first start with P-256 keys: 0.6 ms, and six files synced. A leaf
that ends within 30 days, or whose names are not those asked for, is made anew at the next start;
when the CA itself ends within that time everything is.

Client certificates are asked for and not demanded. One that the known CAs did not sign, or that a
revocation list names, ends the handshake: Python's ssl knows no other way, where kube-apiserver
would answer 401.
Thread safety: values only. May not know: HTTP, Kubernetes.
"""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Issued", "Pki", "client_context", "server_context"]

CA_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=365)
RENEW_WITHIN = timedelta(days=30)
BACKDATED = timedelta(minutes=5)               # for clients whose clocks are behind

NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc",
         "kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1", "::1", "10.96.0.1")
ADMIN_NAME, ADMIN_GROUP = "kubernetes-admin", "system:masters"


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption())

    @property
    def chain(self) -> bytes:
        """Both, PEM, as a client needs them."""
        return self.key_pem + self.pem

    @classmethod
    def read(cls, stem: Path) -> Issued:
        """From stem.crt and stem.key. Errors: OSError, ValueError for what is no P-256 pair."""
        key = serialization.load_pem_private_key(stem.with_suffix(".key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(stem.with_suffix(".crt").read_bytes())
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{stem}.key is not an elliptic curve key")
        if certificate.public_key() != key.public_key():
            raise ValueError(f"{stem}.key is not the key of {stem}.crt")
        return cls(certificate, key)

    def write(self, stem: Path) -> None:
        """Both files; whenever that is cut short, a new key lies beside no old certificate."""
        stem.with_suffix(".crt").unlink(missing_ok=True)
        write_private(stem.with_suffix(".key"), self.key_pem)
        write_whole(stem.with_suffix(".crt"), self.pem, 0o644)


@dataclass
class Pki:
    """The CA and what it signed."""

    ca: Issued
    server: Issued
    admin: Issued
    made: list[str] = field(default_factory=list)      # what is new since the last start

    @classmethod
    def make(cls, names: Iterable[str] = (), now: datetime | None = None) -> Pki:
        """All anew, in memory. Cost: 0.6 ms. Args: names: hosts and addresses beside NAMES."""
        now = now or datetime.now(timezone.utc)
        ca = issue_ca(now)
        return cls(ca, issue_server(ca, all_names(names), now),
                   issue_client(ca, ADMIN_NAME, (ADMIN_GROUP,), now), ["ca", "apiserver", "admin"])

    @classmethod
    def in_directory(cls, directory: Path, names: Iterable[str] = (),
                     now: datetime | None = None) -> Pki:
        """What the directory holds; what is missing, ends soon or has other names is made.

        Errors: OSError; ValueError for files that are no certificates: they are not replaced.
        """
        now = now or datetime.now(timezone.utc)
        wanted = all_names(names)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        made: list[str] = []

        def keep(name: str, fresh: Issued | None) -> Issued:
            if fresh is not None:
                fresh.write(directory / name)
                made.append(name)
                return fresh
            return Issued.read(directory / name)

        ca = _found(directory / "ca", now)
        authority = keep("ca", issue_ca(now) if ca is None else None)
        server, admin = (_found(directory / name, now, authority) if ca is not None else None
                         for name in ("apiserver", "admin"))
        if server is not None and not set(wanted) <= names_of(server.certificate):
            server = None
        return cls(
            authority,
            keep("apiserver", None if server else issue_server(authority, wanted, now)),
            keep("admin", None if admin else issue_client(authority, ADMIN_NAME, (ADMIN_GROUP,),
                                                          now)), made)

    @property
    def ends(self) -> dict[str, datetime]:
        """When each certificate ends."""
        return {name: issued.certificate.not_valid_after_utc for name, issued in (
            ("ca", self.ca), ("apiserver", self.server), ("admin", self.admin))}

    def ending(self, now: datetime) -> list[str]:
        """Those that end within 30 days, and when: a new start would make them anew."""
        return [f"{name} ends {end:%Y-%m-%dT%H:%M:%SZ}" for name, end in self.ends.items()
                if end - now < RENEW_WITHIN]

    def client(self, name: str, groups: Iterable[str] = ()) -> Issued:
        """A client certificate for another user: CN is the name, each O a group."""
        return issue_client(self.ca, name, tuple(groups), datetime.now(timezone.utc))

    def revocations(self, serials: Iterable[int] = ()) -> bytes:
        """A list of revoked certificates signed by the CA, as PEM; empty by default."""
        now = datetime.now(timezone.utc)
        builder = (x509.CertificateRevocationListBuilder()
                   .issuer_name(self.ca.certificate.subject)
                   .last_update(now - BACKDATED).next_update(now + CA_LIFE))
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial)
                .revocation_date(now - BACKDATED).build())
        signed = builder.sign(self.ca.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


# --- making ---------------------------------------------------------------------------------------

def all_names(names: Iterable[str]) -> list[str]:
    """NAMES, this host's name, and those given; no wildcard addresses, none twice."""
    host = socket.gethostname().lower()
    found = dict.fromkeys((*NAMES, host, *names))
    return [name for name in found if name and name not in ("0.0.0.0", "::") and len(name) < 254]


def _name(common: str, groups: Iterable[str] = ()) -> x509.Name:
    return x509.Name([*(x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups),
                      x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey,
             now: datetime, life: timedelta) -> x509.CertificateBuilder:
    public = key.public_key()
    return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
            .public_key(public).serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED).not_valid_after(now + life)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False))


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False)


def issue_ca(now: datetime) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"kvcore-ca {os.urandom(4).hex()}")    # lists of revoked ones name it
    builder = (_builder(name, name, key, now, CA_LIFE)
               .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
               .add_extension(_usage(signs=True), critical=True))
    return Issued(builder.sign(key, hashes.SHA256()), key)


def _issue(ca: Issued, subject: x509.Name, now: datetime, usage: x509.ObjectIdentifier,
           *extensions: x509.ExtensionType) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    parent = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = (_builder(subject, ca.certificate.subject, key, now, LEAF_LIFE)
               .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
               .add_extension(_usage(signs=False), critical=True)
               .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
               .add_extension(parent, critical=False))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Issued(builder.sign(ca.key, hashes.SHA256()), key)


def issue_server(ca: Issued, names: Iterable[str], now: datetime) -> Issued:
    return _issue(ca, _name("kube-apiserver"), now, ExtendedKeyUsageOID.SERVER_AUTH,
                  x509.SubjectAlternativeName([_general(name) for name in names]))


def issue_client(ca: Issued, name: str, groups: tuple[str, ...], now: datetime) -> Issued:
    return _issue(ca, _name(name, groups), now, ExtendedKeyUsageOID.CLIENT_AUTH)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def names_of(certificate: x509.Certificate) -> set[str]:
    """Hosts and addresses that a serving certificate is for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def _found(stem: Path, now: datetime, ca: Issued | None = None) -> Issued | None:
    """What lies there, if it is good for a while and of this CA."""
    if not stem.with_suffix(".crt").exists() or not stem.with_suffix(".key").exists():
        return None
    issued = Issued.read(stem)
    signer = issued.certificate.issuer
    if (issued.certificate.not_valid_after_utc - now < RENEW_WITHIN
            or ca is not None and signer != ca.certificate.subject):
        return None
    if ca is not None:
        issued.certificate.verify_directly_issued_by(ca.certificate)
    return issued


# --- files ----------------------------------------------------------------------------------------

def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Replaces a file in one step; nobody sees half of it, nor it with another mode, not even
    after a loss of power."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        os.chmod(part, mode)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def write_private(path: Path, data: bytes) -> None:
    """As write_whole, readable by its owner only."""
    write_whole(path, data, 0o600)


# --- contexts -------------------------------------------------------------------------------------

def server_context(pki: Pki, *, client_ca: bytes = b"", client_crl: bytes = b"") -> ssl.SSLContext:
    """TLS 1.2 and later; a client may bring a certificate of our CA or of `client_ca`.

    Args: client_ca: PEM of further CAs. client_crl: PEM of revocation lists; then each CA that
    signed a client's certificate must have one in it (ours has an empty one if it has none).
    No session tickets: a resumed session would not look at the list.
    Errors: ValueError for what is no PEM of the kind.
    """
    if client_ca:
        x509.load_pem_x509_certificates(client_ca)
    if client_crl and not x509_crls(client_crl):
        raise ValueError("there is no revocation list in the file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.load_verify_locations(cadata=(pki.ca.pem + b"\n" + client_ca).decode())
    with tempfile.TemporaryDirectory(prefix="kvcore-tls-") as directory:
        chain = Path(directory, "chain")              # ssl reads keys and lists from files only
        write_private(chain, pki.server.key_pem + pki.server.pem)
        context.load_cert_chain(chain)
        if client_crl:
            lists = Path(directory, "crl")
            ours = [crl for crl in x509_crls(client_crl)
                    if crl.issuer == pki.ca.certificate.subject]
            lists.write_bytes(client_crl + b"\n" + (b"" if ours else pki.revocations()))
            context.load_verify_locations(cafile=lists)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def x509_crls(pem: bytes) -> list[x509.CertificateRevocationList]:
    """The lists in a PEM file, one after the other. Errors: ValueError."""
    end = b"-----END X509 CRL-----"
    blocks = [part for part in pem.split(end) if b"-----BEGIN X509 CRL-----" in part]
    return [x509.load_pem_x509_crl(block + end) for block in blocks]


def client_context(ca: bytes, client: bytes = b"",
                   protocols: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
    """For a client of such a server. Args: ca: PEM; client: its key and certificate, PEM
    (`Issued.chain`), if it has one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca.decode())
    context.set_alpn_protocols(list(protocols))
    if client:
        with tempfile.TemporaryDirectory(prefix="kvcore-tls-") as directory:
            chain = Path(directory, "chain")
            write_private(chain, client)
            context.load_cert_chain(chain)
    return context
