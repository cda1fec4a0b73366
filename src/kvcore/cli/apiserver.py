# SPDX-License-Identifier: Apache-2.0
"""`kvcore apiserver --data-dir DIR`: a Kubernetes API server over a directory, until a signal.

    arguments ─> Options ─> store, certificates, replicas ─> kubeconfig ─> "ready" ─> ... ─> closed

The flags have kube-apiserver's names where it has them. Without --data-dir everything is in memory.
One line says that requests are served; the kubeconfig is there before it. SIGTERM and Ctrl-C end
watches, finish requests in flight and close the store; exit codes as for every command.
"""

from __future__ import annotations

import argparse
import os
import ssl
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import kvcore
from kvcore.cli.output import PROBLEM, Output, UsageError, add_json

PKI = "pki"                      # in the data directory, beside the log's files

# flag, keywords of add_argument; the name of the option is the flag's
FLAGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bind-address", {"default": "127.0.0.1", "metavar": "IP",
                      "help": "address to listen on (default 127.0.0.1)"}),
    ("secure-port", {"default": 6443, "type": int, "metavar": "PORT",
                     "help": "port to serve HTTPS on; 0: any free one (default 6443)"}),
    ("advertise-address", {"default": "", "metavar": "HOST",
                           "help": "the host that the kubeconfig names (default: the bind "
                                   "address)"}),
    ("replicas", {"default": 1, "type": int, "metavar": "N",
                  "help": "servers over the one store, behind a TCP balancer (default 1)"}),
    ("storage-codec", {"default": "json", "metavar": "NAME",
                       "help": "how objects are stored: json, msgpack or protobuf"}),
    ("key-layout", {"default": "grouped", "metavar": "NAME",
                    "help": "where objects are stored: grouped or kubernetes"}),
    ("default-watch-cache-size", {"default": 100_000, "type": int, "metavar": "N",
                                  "help": "events that are kept of each resource"}),
    ("watch-cache-sizes", {"default": "", "metavar": "RESOURCE#N,...",
                           "help": "the same for single resources: pods#200000"}),
    ("enable-admission-plugins", {"default": "", "metavar": "NAME,...",
                                  "help": "plugins beside the default ones"}),
    ("disable-admission-plugins", {"default": "", "metavar": "NAME,...",
                                   "help": "default plugins that are left out"}),
    ("admission-control-config-file", {"metavar": "FILE",
                                       "help": "what plugins are configured with"}),
    ("client-ca-file", {"metavar": "FILE", "help": "further CAs of client certificates, PEM"}),
    ("client-crl-file", {"metavar": "FILE", "help": "revoked client certificates, PEM"}),
    ("token-auth-file", {"metavar": "FILE", "help": "static bearer tokens, CSV"}),
    ("audit-log-path", {"metavar": "FILE",
                        "help": "a line for each request, its metadata; -: standard output"}),
    ("authorization-mode", {"default": "RBAC", "metavar": "NAME,...",
                            "help": "who may do what: RBAC, AlwaysAllow (default RBAC)"}),
    ("anonymous-auth", {"default": "true", "choices": ("true", "false"),
                        "help": "whether requests without credentials are taken"}),
)
LISTS = ("enable-admission-plugins", "disable-admission-plugins", "authorization-mode")


def add(commands: Any) -> None:
    """Adds the sub-command."""
    command = commands.add_parser(
        "apiserver", help="serve the Kubernetes API over a directory",
        description="Serves the Kubernetes API over HTTPS until SIGTERM or Ctrl-C. Certificates "
                    "are made in DIR/pki on the first start.")
    command.add_argument("--data-dir", metavar="DIR",
                         help="the store's directory, made if it is not there (default: in memory)")
    command.add_argument("--write-kubeconfig", metavar="FILE",
                         help="write the administrator's kubeconfig, once requests are served")
    for flag, keywords in FLAGS:
        command.add_argument(f"--{flag}", **keywords)
    add_json(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Serves until a signal; 1 if the server ended by itself."""
    started = time.monotonic()
    try:
        from kvcore.kube.options import OptionError
        from kvcore.kube.server import Server
    except ImportError as error:
        raise UsageError(f"{error.name} is missing: pip install 'kvcore[kube]'") from error
    try:
        options = _options(args)
        options.check()
    except OptionError as error:
        raise UsageError(str(error)) from None
    with kvcore.open(args.data_dir) as store, closing(_started(Server(store, options))) as server:
        if args.write_kubeconfig is not None:
            server.write_kubeconfig(args.write_kubeconfig)
        seconds = time.monotonic() - started
        if output.json:
            output.line({"ready": True, "url": server.url, "port": server.port, "pid": os.getpid(),
                         "kubeconfig": args.write_kubeconfig, "data_dir": args.data_dir,
                         "replicas": options.replicas, "revision": store.revision,
                         "seconds": round(seconds, 4)})
        else:
            print(f"serving {server.url} over {args.data_dir or 'memory'}, ready in "
                  f"{seconds * 1000:.0f} ms")
        sys.stdout.flush()
        server.wait()
    return PROBLEM


def _started(server: Any) -> Any:
    """Starts it; what is wrong with a file that an option names is wrong with the arguments."""
    try:
        return server.start()
    except (ValueError, ssl.SSLError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error


def _options(args: argparse.Namespace) -> Any:
    """Options of the arguments. Errors: OptionError."""
    from kvcore.kube.feed import parse_cache_sizes
    from kvcore.kube.options import OptionError, Options
    values: dict[str, Any] = {}
    for flag, _ in FLAGS:
        name = flag.replace("-", "_")
        value = getattr(args, name)
        if flag in LISTS:
            value = tuple(filter(None, value.split(",")))
        elif flag.endswith("-file") and value is not None:
            value = Path(value)
        values[name] = value
    try:
        values["watch_cache_sizes"] = parse_cache_sizes(values["watch_cache_sizes"])
    except ValueError as error:
        raise OptionError(f"--watch-cache-sizes: {error}") from error
    values["anonymous_auth"] = values["anonymous_auth"] == "true"
    if args.data_dir is not None:
        values["pki_dir"] = Path(args.data_dir, PKI)
    return Options(**values)
