# SPDX-License-Identifier: Apache-2.0
"""Certificates: made once, kept, renewed in time; whose client certificate is taken."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from kube_wires import PATIENCE, connect, get

import kvcore
from kvcore.kube import serve
from kvcore.kube.server import warn_of_ends
from kvcore.kube.tls import Pki, client_context, names_of, server_context, write_whole

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
FILES = ["admin.crt", "admin.key", "apiserver.crt", "apiserver.key", "ca.crt", "ca.key"]


def serials(pki: Pki) -> list[int]:
    return [pair.certificate.serial_number for pair in (pki.ca, pki.server, pki.admin)]


def test_what_is_made() -> None:
    pki = Pki.make(("10.1.2.3", "api.example", "0.0.0.0"))
    names = names_of(pki.server.certificate)
    assert {"localhost", "127.0.0.1", "::1", "kubernetes.default.svc", "10.1.2.3", "api.example",
            socket.gethostname().lower()} <= names
    assert "0.0.0.0" not in names
    subject = pki.admin.certificate.subject
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [
        "kubernetes-admin"]
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == [
        "system:masters"]
    for pair in (pki.server, pki.admin):
        pair.certificate.verify_directly_issued_by(pki.ca.certificate)


def test_a_directory_keeps_them(tmp_path: Path) -> None:
    first = Pki.in_directory(tmp_path / "pki", now=NOW)
    assert sorted(p.name for p in (tmp_path / "pki").iterdir()) == FILES
    assert {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "pki").iterdir()} == {
        name: 0o600 if name.endswith(".key") else 0o644 for name in FILES}
    assert (tmp_path / "pki").stat().st_mode & 0o777 == 0o700
    again = Pki.in_directory(tmp_path / "pki", now=NOW)
    assert serials(again) == serials(first) and again.made == []


def test_leaves_are_renewed_before_they_end(tmp_path: Path) -> None:
    first = Pki.in_directory(tmp_path, now=NOW)
    kept = Pki.in_directory(tmp_path, now=NOW + timedelta(days=334))
    assert serials(kept) == serials(first)
    later = Pki.in_directory(tmp_path, now=NOW + timedelta(days=336))
    assert later.made == ["apiserver", "admin"] and serials(later)[0] == serials(first)[0]
    assert Pki.in_directory(tmp_path, now=NOW + timedelta(days=336)).made == []


def test_ends_are_told_before_they_come(caplog: pytest.LogCaptureFixture) -> None:
    """Once a day, and for whoever watches the metrics."""
    made = Pki.make()
    start = made.server.certificate.not_valid_after_utc.timestamp() - 31 * 86_400
    clock, waits = [start], list[float]()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds
        if len(waits) == 4:
            raise asyncio.CancelledError
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(warn_of_ends(made, lambda: clock[0], sleep))
    said = [r.getMessage() for r in caplog.records if "end soon" in r.getMessage()]
    end = made.server.certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert waits == [86_400.0] * 4 and len(said) == 2
    assert all(text.endswith(f"renew them: apiserver ends {end}, admin ends {end}")
               for text in said)
    with kvcore.open() as store, serve(store) as api, \
            connect(api.port, client=api.pki.admin, authority=api.pki) as sock:
        text = get(sock, "/metrics")[1].decode()
        for name, at in api.pki.ends.items():
            assert f'certificate_end_seconds{{certificate="{name}"}} {at.timestamp():.0f}\n' in text


def test_a_ca_that_ends_takes_everything_along(tmp_path: Path) -> None:
    Pki.in_directory(tmp_path, now=NOW)
    later = Pki.in_directory(tmp_path, now=NOW + timedelta(days=3640))
    assert later.made == ["ca", "apiserver", "admin"]


def test_another_name_makes_a_serving_certificate(tmp_path: Path) -> None:
    Pki.in_directory(tmp_path, now=NOW)
    assert Pki.in_directory(tmp_path, ("10.9.9.9",), now=NOW).made == ["apiserver"]
    assert Pki.in_directory(tmp_path, ("10.9.9.9",), now=NOW).made == []


@pytest.mark.parametrize("writes", range(4))
def test_a_renewal_that_is_cut_short_is_done_again(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """The process is killed behind any number of the files that it writes."""
    first, later = Pki.in_directory(tmp_path, now=NOW), NOW + timedelta(days=336)
    left = iter(range(writes))

    def write_some(path: Path, data: bytes, mode: int) -> None:
        next(left)
        write_whole(path, data, mode)

    with monkeypatch.context() as cut:
        cut.setattr("kvcore.kube.tls.write_whole", write_some)
        with pytest.raises(StopIteration):
            Pki.in_directory(tmp_path, now=later)
    pki = Pki.in_directory(tmp_path, now=later)
    assert serials(pki)[0] == serials(first)[0] and pki.made[-1] == "admin"
    assert Pki.in_directory(tmp_path, now=later).made == []


def test_files_are_on_disk_before_they_have_their_names(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def tell(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def told(*args: Any) -> None:
            done.append(name)
            real(*args)
        return told

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, tell(name, getattr(os, name)))
    Pki.in_directory(tmp_path, now=NOW)
    assert done == ["fsync", "replace"] * len(FILES)


def test_a_missing_key_is_made_again(tmp_path: Path) -> None:
    Pki.in_directory(tmp_path, now=NOW)
    (tmp_path / "admin.key").unlink()
    assert Pki.in_directory(tmp_path, now=NOW).made == ["admin"]


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "apiserver.crt", "admin.key"])
def test_a_file_that_is_no_certificate_is_left_alone(tmp_path: Path, name: str) -> None:
    Pki.in_directory(tmp_path, now=NOW)
    (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError):
        Pki.in_directory(tmp_path, now=NOW)
    assert (tmp_path / name).read_text() == "precious"


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    Pki.in_directory(tmp_path, now=NOW)
    (tmp_path / "ca.key").write_bytes((tmp_path / "admin.key").read_bytes())
    with pytest.raises(ValueError, match="is not the key of"):
        Pki.in_directory(tmp_path, now=NOW)


# --- whose certificate is taken -------------------------------------------------------------------

def test_no_certificate_is_asked_for_in_vain() -> None:
    with kvcore.open() as store, serve(store) as api, connect(api.port, authority=api.pki) as sock:
        assert get(sock, "/healthz") == (200, b"ok")


def refused(port: int, pki: Pki, client: object) -> bool:
    """Whether a client certificate ends the handshake (with TLS 1.3 the client learns it when it
    reads)."""
    try:
        with connect(port, client=client, authority=pki) as sock:  # type: ignore[arg-type]
            get(sock, "/healthz")
    except (ssl.SSLError, ConnectionError):
        return True
    return False


def test_an_unknown_authority_ends_the_handshake(tmp_path: Path) -> None:
    other = Pki.make()
    (tmp_path / "other.pem").write_bytes(other.ca.pem)
    with kvcore.open() as store:
        with serve(store) as api:
            assert not refused(api.port, api.pki, api.pki.admin)
            assert refused(api.port, api.pki, other.admin)
            assert not refused(api.port, api.pki, None)
        with serve(store, client_ca_file=tmp_path / "other.pem") as api:
            assert not refused(api.port, api.pki, other.admin)
            assert not refused(api.port, api.pki, api.pki.admin)


def test_a_revoked_certificate_ends_the_handshake(tmp_path: Path) -> None:
    crl = tmp_path / "crl.pem"
    pki = Pki.in_directory(tmp_path / "pki")
    gone, stays = pki.client("gone"), pki.client("stays", ("group",))
    crl.write_bytes(pki.revocations([gone.certificate.serial_number]))
    with kvcore.open() as store, serve(store, pki_dir=tmp_path / "pki",
                                       client_crl_file=crl) as api:
        assert refused(api.port, pki, gone)
        assert not refused(api.port, pki, stays) and not refused(api.port, pki, pki.admin)


def test_a_list_of_another_authority_leaves_ours_alone(tmp_path: Path) -> None:
    other = Pki.make()
    (tmp_path / "ca.pem").write_bytes(other.ca.pem)
    (tmp_path / "crl.pem").write_bytes(
        other.revocations([other.admin.certificate.serial_number]))
    with kvcore.open() as store, serve(store, client_ca_file=tmp_path / "ca.pem",
                                       client_crl_file=tmp_path / "crl.pem") as api:
        assert refused(api.port, api.pki, other.admin)
        assert not refused(api.port, api.pki, other.client("new"))
        assert not refused(api.port, api.pki, api.pki.admin)


def test_old_versions_of_tls_are_refused() -> None:
    with kvcore.open() as store, serve(store) as api:
        context = client_context(api.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection(("127.0.0.1", api.port), PATIENCE) as raw:
            with context.wrap_socket(raw, server_hostname="localhost") as sock:
                assert sock.version() == "TLSv1.2"
        assert server_context(api.pki).minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("rubbish", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", b"\0" * 99,
                                     b""])
def test_what_is_no_handshake_harms_nobody(rubbish: bytes) -> None:
    with kvcore.open() as store, serve(store) as api:
        with socket.create_connection(("127.0.0.1", api.port), PATIENCE) as raw:
            raw.sendall(rubbish)
            with connect(api.port, authority=api.pki) as sock:
                assert get(sock, "/healthz")[0] == 200


def test_a_strict_client_takes_the_certificates() -> None:
    """Verification by RFC 5280 to the letter, the default of newer Pythons."""
    with kvcore.open() as store, serve(store) as api:
        context = api.ssl_context()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        with socket.create_connection(("127.0.0.1", api.port), PATIENCE) as raw:
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as sock:
                assert get(sock, "/healthz")[0] == 200


def test_serials_are_told_apart() -> None:
    pki = Pki.make()
    found = {pki.client(str(n)).certificate.serial_number for n in range(20)}
    assert len(found) == 20 and isinstance(pki.ca.certificate, x509.Certificate)
