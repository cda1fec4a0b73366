# SPDX-License-Identifier: Apache-2.0
"""What a server can be told, by keyword or on the command line, and the Api built from it.

    kvcore apiserver --flags ──> Options ──build_api──> Api   (one a replica)
    serve(store, keyword=...) ──────^

`PARTS` is the table of what is made from options: each a function of Options that gives one
argument or attribute of the Api. Names that nothing is built for are refused, not ignored.
Thread safety: values only; `build_api` in the thread of the loop that the Api belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvcore import Store
from kvcore.kube.admission.plugins import build_chain
from kvcore.kube.api import Api
from kvcore.kube.audit import AuditLog
from kvcore.kube.codec import CODECS
from kvcore.kube.security import MODES, secure
from kvcore.kube.tokens import ISSUER
from kvcore.kube.wire import Limits

__all__ = ["OptionError", "Options", "build_api"]

KEY_LAYOUTS = ("grouped", "kubernetes")


class OptionError(ValueError):
    """An option has a value that it cannot have; the message names the option."""


@dataclass(frozen=True)
class Options:
    """All options of a server. Sizes are events; files are read when the server starts."""

    bind_address: str = "127.0.0.1"
    secure_port: int = 0                        # 0: any free one
    advertise_address: str = ""                 # the host in the URL; "": from bind_address
    replicas: int = 1
    pki_dir: Path | None = None                 # None: certificates in memory
    client_ca_file: Path | None = None
    client_crl_file: Path | None = None
    storage_codec: str = "json"
    key_layout: str = "grouped"
    default_watch_cache_size: int = 100_000
    watch_cache_sizes: dict[str, int] = field(default_factory=dict)
    enable_admission_plugins: tuple[str, ...] = ()
    disable_admission_plugins: tuple[str, ...] = ()
    admission_control_config_file: Path | None = None
    admission_plugins: tuple[Any, ...] = ()     # one's own: plugins, classes of them, functions
    async_admission: bool = False               # see docs/kube.md for what it risks
    token_auth_file: Path | None = None
    audit_log_path: str | None = None           # "-": standard output
    authorization_mode: tuple[str, ...] = ("RBAC",)
    anonymous_auth: bool = True
    service_account_issuer: str = ISSUER
    limits: Limits = field(default_factory=Limits)
    api: dict[str, Any] = field(default_factory=dict)      # keywords of Api, over all of these

    def check(self) -> None:
        """Errors: OptionError."""
        _one_of("--storage-codec", self.storage_codec, tuple(CODECS))
        _one_of("--key-layout", self.key_layout, KEY_LAYOUTS)
        for mode in self.authorization_mode or ("",):
            _one_of("--authorization-mode", mode, tuple(MODES))
        if not 0 <= self.secure_port < 65_536:
            raise OptionError(f"--secure-port must be 0 to 65535, got {self.secure_port}")
        if not 1 <= self.replicas <= 64:
            raise OptionError(f"--replicas must be 1 to 64, got {self.replicas}")
        if self.default_watch_cache_size < 0:
            raise OptionError("--default-watch-cache-size cannot be negative")
        for part in PARTS.values():
            part(self)

    @property
    def host(self) -> str:
        """The host of the URL that clients are given."""
        if self.advertise_address:
            return self.advertise_address
        wild = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        return wild.get(self.bind_address, self.bind_address)


def _one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise OptionError(f"{flag} must be one of {', '.join(known)}, got {value!r}")


# --- parts: what a server is made of --------------------------------------------------------------

def _admission(options: Options) -> dict[str, Any]:
    try:
        return {"admission": build_chain(
            options.enable_admission_plugins, options.disable_admission_plugins,
            options.admission_control_config_file, plugins=options.admission_plugins,
            async_admission=options.async_admission)}
    except ValueError as error:
        raise OptionError(str(error)) from error


def _caches(options: Options) -> dict[str, Any]:
    return {"capacity": options.default_watch_cache_size, "capacities": options.watch_cache_sizes}


def _storage(options: Options) -> dict[str, Any]:
    return {"storage_codec": options.storage_codec, "key_layout": options.key_layout}


def _audit(options: Options) -> dict[str, Any]:
    return {"audit": AuditLog(options.audit_log_path) if options.audit_log_path else None}


PARTS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "storage": _storage, "caches": _caches, "admission": _admission,
    "audit": _audit}


def build_api(store: Store, options: Options, *, ca: bytes = b"",
              service_account_key: bytes = b"") -> Api:
    """An Api as the options say, with authentication and authorisation.

    Args: ca: PEM, for every namespace's kube-root-ca.crt; service_account_key: PEM, signs tokens.
    Errors: OptionError, and what a part's files raise.
    """
    keywords: dict[str, Any] = {"ca": ca.decode()}
    for part in PARTS.values():
        keywords |= part(options)
    api = Api(store, **(keywords | options.api))
    secure(api, authorization_mode=options.authorization_mode,
           anonymous_auth=options.anonymous_auth, token_auth_file=options.token_auth_file,
           service_account_key=(service_account_key,) if service_account_key else (),
           service_account_issuer=options.service_account_issuer)
    return api
