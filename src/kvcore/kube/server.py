# SPDX-License-Identifier: Apache-2.0
"""A server over a store: threads, sockets, certificates, and how it ends.

    serve(store) ─> Server ─┬─> Replica: thread, event loop, Api, TLS port      (one: the only port)
                            ├─> Replica ...
                            └─> Balancer: thread, loop, the public port         (with replicas > 1)

Start: certificates, then each replica until it listens; an error of a thread's start is raised by
`start`. End: stop accepting, end watches, finish requests in flight for `grace_seconds`, then the
caches; an error that ended a thread is raised by `close` and `wait`.
Thread safety: a Server's methods may be called from any thread, but from its own loops'.
May not know: the verbs.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from kvcore import Store
from kvcore.kube.aggregation import keep_aggregated
from kvcore.kube.api import Api
from kvcore.kube.balancer import Balancer
from kvcore.kube.bootstrap_roles import bootstrap
from kvcore.kube.kubeconfig import kubeconfig, write_kubeconfig
from kvcore.kube.options import Options, build_api
from kvcore.kube.tls import Pki, client_context, server_context
from kvcore.kube.tokens import key_at, make_key
from kvcore.kube.wire import Hub

__all__ = ["Server", "serve"]

T = TypeVar("T")

_log = logging.getLogger("kvcore.kube")

HANDSHAKE_SECONDS = 10.0
DAY = 86_400.0
BACKLOG = 1024                   # connections that wait to be accepted


def url_of(host: str, port: int) -> str:
    """
    >>> url_of("::1", 6443)
    'https://[::1]:6443'
    """
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's when it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class LoopThread:
    """A thread with an event loop that runs `_main` until it is told to stop."""

    def __init__(self, name: str) -> None:
        self.ready: Future[int] = Future()             # the port
        self.failed: BaseException | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._told = False                             # to stop, perhaps before there is a loop
        self.on_end: Callable[[], None] = lambda: None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def _main(self, stop: asyncio.Event) -> None:
        """Sets `ready`, then works until `stop` is set, then cleans up."""
        raise NotImplementedError

    def start(self) -> int:
        """Returns: the port, once it listens. Errors: what the start raised."""
        self.thread.start()
        return self.ready.result()

    def _run(self) -> None:
        loop = self.loop = new_loop()
        try:
            self._stop = asyncio.Event()
            if self._told:
                self._stop.set()
            loop.run_until_complete(self._main(self._stop))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        except BaseException as error:
            if self.ready.done():
                self.failed = error
            else:
                self.ready.set_exception(error)
        finally:
            loop.close()
            self.on_end()

    def stop(self) -> None:
        """Tell it; idempotent. Does not wait."""
        self._told = True
        if self.loop is not None and self._stop is not None:
            try:
                self.loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError:                       # it has ended by itself
                pass


class Replica(LoopThread):
    """One Api with its caches, on its own loop and port."""

    api: Api

    def __init__(self, number: int, options: Options, context: ssl.SSLContext,
                 address: tuple[str, int], build: Callable[[], Api], pki: Pki) -> None:
        super().__init__(f"kvcore-apiserver-{number}")
        self._number, self._pki = number, pki
        self._options, self._context, self._build = options, context, build
        self.address = address
        self.hub: Hub

    async def _main(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        self.api = api = self._build()
        await api.start()
        beside: list[asyncio.Task[None]] = []
        try:
            if "RBAC" in self._options.authorization_mode:
                await bootstrap(api)
                beside.append(loop.create_task(keep_aggregated(api)))
            if not self._number:
                beside.append(loop.create_task(warn_of_ends(self._pki, api.now)))
            self.hub = hub = Hub(api.handle, self._options.limits)
            server = await loop.create_server(
                hub.door, *self.address, ssl=self._context, backlog=BACKLOG,
                ssl_handshake_timeout=HANDSHAKE_SECONDS)
            clock = loop.create_task(hub.keep_time())
            self.address = (self.address[0], int(server.sockets[0].getsockname()[1]))
            api.url = url_of(self._options.host, self.address[1])
            self.ready.set_result(self.address[1])
            waiting = loop.create_task(stop.wait())
            await asyncio.wait((clock, waiting), return_when=asyncio.FIRST_COMPLETED)
            server.close()
            await hub.stop()
            for task in (clock, waiting):
                task.cancel()
            await asyncio.gather(clock, waiting, return_exceptions=True)
            if not clock.cancelled() and clock.exception() is not None:
                clock.result()                         # what stopped it is the thread's error
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await api.stop()


async def warn_of_ends(pki: Pki, now: Callable[[], float],
                       sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Says once a day which certificates end soon, until it is cancelled: only a start renews them.
    """
    while True:
        ending = pki.ending(datetime.fromtimestamp(now(), timezone.utc))
        if ending:
            _log.warning("certificates end soon; start the server again to renew them: %s",
                         ", ".join(ending))
        await sleep(DAY)


class Front(LoopThread):
    """The balancer before several replicas."""

    def __init__(self, options: Options, replicas: list[Replica]) -> None:
        super().__init__("kvcore-balancer")
        self.balancer = Balancer(replica.address for replica in replicas)
        self._address = (options.bind_address, options.secure_port)

    async def _main(self, stop: asyncio.Event) -> None:
        port = await self.balancer.start(*self._address)
        self.ready.set_result(port)
        await stop.wait()
        await self.balancer.stop()


class Server:
    """A server, started by `start()` or `with`; see `serve`."""

    def __init__(self, store: Store, options: Options | None = None) -> None:
        self.store, self.options = store, options or Options()
        self.replicas: list[Replica] = []
        self.port = 0
        self.pki: Pki
        self._front: Front | None = None
        self._ended = threading.Event()
        self._closed = False

    # --- its life --------------------------------------------------------------------------------

    def start(self) -> Server:
        """Returns once requests are served. Errors: OptionError, OSError, ssl.SSLError, the
        store's. Cost: 5 to 20 ms a replica."""
        options = self.options
        options.check()
        names = (options.bind_address, options.host)
        self.pki = (Pki.make(names) if options.pki_dir is None
                    else Pki.in_directory(options.pki_dir, names))
        context = server_context(self.pki, client_ca=_bytes(options.client_ca_file),
                                 client_crl=_bytes(options.client_crl_file))
        alone = options.replicas == 1
        address = (options.bind_address, options.secure_port) if alone else ("127.0.0.1", 0)
        key = make_key() if options.pki_dir is None else key_at(options.pki_dir / "sa.key")

        def build() -> Api:
            api = build_api(self.store, options, ca=self.pki.ca.pem, service_account_key=key)
            api.certificates = {name: end.timestamp() for name, end in self.pki.ends.items()}
            return api

        try:
            for number in range(options.replicas):
                replica = Replica(number, options, context, address, build, self.pki)
                replica.on_end = lambda replica=replica: self._left(replica)  # type: ignore[misc]
                self.replicas.append(replica)
                self.port = replica.start()
            if not alone:
                self._front = Front(options, self.replicas)
                self._front.on_end = self._ended.set
                self.port = self._front.start()
                for replica in self.replicas:
                    replica.api.url = self.url
        except BaseException:
            self.close()
            raise
        return self

    def _left(self, replica: Replica) -> None:
        """In the thread of a replica that has ended: nobody is sent there any more."""
        front = self._front
        if front is not None and front.loop is not None and not front.loop.is_closed():
            front.loop.call_soon_threadsafe(front.balancer.remove, replica.address)
        if replica.failed is not None or all(not r.thread.is_alive() or r is replica
                                             for r in self.replicas):
            self._ended.set()

    def close(self) -> None:
        """Stop and wait for the threads; idempotent. Errors: what ended a thread early."""
        if self._closed:
            return
        self._closed = True
        threads: list[LoopThread] = [r for r in self.replicas if r.thread.ident is not None]
        for thread in threads:
            thread.stop()
        for thread in threads:
            thread.thread.join()
        if self._front is not None:
            self._front.stop()
            self._front.thread.join()
            threads.append(self._front)
        self._ended.set()
        for thread in threads:
            if thread.failed is not None:
                raise thread.failed

    def wait(self, seconds: float | None = None) -> bool:
        """Until the server ends by itself or is closed. Returns: whether it has."""
        return self._ended.wait(seconds)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- what clients need -----------------------------------------------------------------------

    @property
    def url(self) -> str:
        return url_of(self.options.host, self.port)

    @property
    def ca(self) -> bytes:
        """The CA's certificate, PEM."""
        return self.pki.ca.pem

    @property
    def kubeconfig(self) -> dict[str, Any]:
        """For the administrator, by client certificate."""
        admin = self.pki.admin
        return kubeconfig(self.url, self.ca, certificate=admin.pem, key=admin.key_pem)

    def write_kubeconfig(self, path: str | Path) -> None:
        """The same as a file: whole or not at all, 0600. Errors: OSError."""
        write_kubeconfig(path, self.kubeconfig)

    def ssl_context(self, *protocols: str, anonymous: bool = False) -> ssl.SSLContext:
        """For a Python client; with the administrator's certificate unless anonymous."""
        return client_context(self.ca, b"" if anonymous else self.pki.admin.chain,
                              protocols or ("http/1.1",))

    # --- from other threads ----------------------------------------------------------------------

    @property
    def api(self) -> Api:
        """The first replica's. Its methods belong to its loop: see `run`."""
        return self.replicas[0].api

    def run(self, work: Coroutine[Any, Any, T], replica: int = 0) -> T:
        """Runs a coroutine on a replica's loop and waits for it, from any other thread."""
        loop = self.replicas[replica].loop
        assert loop is not None
        return asyncio.run_coroutine_threadsafe(work, loop).result()


def _bytes(path: Path | None) -> bytes:
    return b"" if path is None else Path(path).read_bytes()


OPTION_NAMES = frozenset(field.name for field in fields(Options)) - {"api"}


def serve(store: Store, **options: Any) -> Server:
    """A Kubernetes API server over a store, in threads of this process. Use it with `with`.

    Args: any of Options (secure_port, replicas, pki_dir, limits, ...); the others are Api's
    (admission, resources, clock, ...). The store stays the caller's, and is closed after it.
    Returns: a Server, not yet started. Errors: TypeError for what is neither.

    >>> import kvcore
    >>> with kvcore.open() as store, serve(store) as api:
    ...     api.url.startswith("https://127.0.0.1:"), api.kubeconfig["kind"]
    (True, 'Config')
    """
    own = {name: value for name, value in options.items() if name in OPTION_NAMES}
    rest = {name: value for name, value in options.items() if name not in OPTION_NAMES}
    return Server(store, Options(**own, api=rest))
