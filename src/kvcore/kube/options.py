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
from kvcore.kube.api import Api
from kvcore.kube.codec import CODECS
from kvcore.kube.wire import Limits

__all__ = ["OptionError", "Options", "build_api", "parse_sizes"]

KEY_LAYOUTS = ("grouped", "kubernetes")
AUTHORIZATION_MODES = ("AlwaysAllow",)


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
    token_auth_file: Path | None = None
    authorization_mode: str = "AlwaysAllow"
    anonymous_auth: bool = True
    limits: Limits = field(default_factory=Limits)
    api: dict[str, Any] = field(default_factory=dict)      # keywords of Api, over all of these

    def check(self) -> None:
        """Errors: OptionError."""
        _one_of("--storage-codec", self.storage_codec, tuple(CODECS))
        _one_of("--key-layout", self.key_layout, KEY_LAYOUTS)
        _one_of("--authorization-mode", self.authorization_mode, AUTHORIZATION_MODES)
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


def parse_sizes(text: str) -> dict[str, int]:
    """--watch-cache-sizes as upstream writes it. Errors: OptionError.

    >>> parse_sizes("pods#200000,deployments.apps#50000")
    {'pods': 200000, 'deployments': 50000}
    """
    sizes = {}
    for item in filter(None, text.split(",")):
        name, mark, number = item.partition("#")
        if not name or not mark or not number.isdigit():
            raise OptionError(f"--watch-cache-sizes: {item!r} is not resource[.group]#size")
        sizes[name.partition(".")[0]] = int(number)
    return sizes


# --- parts: where what a server is made of plugs in ----------------------------------------------

def _admission(options: Options) -> dict[str, Any]:
    """The chain. No plugin is built in yet, so none can be named."""
    for flag, names in (("--enable-admission-plugins", options.enable_admission_plugins),
                        ("--disable-admission-plugins", options.disable_admission_plugins)):
        if names:
            raise OptionError(f"{flag}: unknown plugin {names[0]!r}")
    if options.admission_control_config_file is not None:
        raise OptionError("--admission-control-config-file: no plugin takes a configuration")
    return {}


def _authentication(options: Options) -> dict[str, Any]:
    if options.token_auth_file is not None:
        raise OptionError("--token-auth-file: tokens are not read yet")
    if not options.anonymous_auth:
        raise OptionError("--anonymous-auth=false: nobody could be authenticated yet")
    return {}


def _caches(options: Options) -> dict[str, Any]:
    return {"capacity": options.default_watch_cache_size or 100,
            "capacities": options.watch_cache_sizes}


def _storage(options: Options) -> dict[str, Any]:
    return {"storage_codec": options.storage_codec, "key_layout": options.key_layout}


PARTS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "storage": _storage, "caches": _caches, "authentication": _authentication,
    "admission": _admission}


def build_api(store: Store, options: Options) -> Api:
    """An Api as the options say. Errors: OptionError, and what a part's files raise."""
    keywords: dict[str, Any] = {}
    for part in PARTS.values():
        keywords |= part(options)
    return Api(store, **(keywords | options.api))
