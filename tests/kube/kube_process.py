# SPDX-License-Identifier: Apache-2.0
"""`kvcore apiserver` as a process, to be killed; what writes to it and what watches it meanwhile.

    Process(directory) ── .ready, .kill()
    Writer thread ── objects of its own, one request after another, until the connection breaks
        └── Known: what was acknowledged of an object, and what was asked for when it broke
    Followers thread ── two reflectors (WatchList, LIST) that live through all of it

May not know: what a test makes of it.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yarl
from event_loops import connections_closed
from kube_wires import PATIENCE
from reflector import Reflector

from kvcore.kube.request import Answer
from kvcore.kube.tls import client_context

Object = dict[str, Any]
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
REFUSED = "refused"              # the label of what is sent to be refused
NOTHING, GONE = object(), object()


def free_port() -> int:
    """A port that stays free for a while: not one of those the kernel gives to clients."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Process:
    """The command, ready."""

    def __init__(self, directory: Path, port: int, *arguments: object) -> None:
        self.process = spawn(directory, port, *arguments)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        self.ready = json.loads(line)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.returncode is None:
            self.kill()

    def kill(self) -> None:
        """Errors: AssertionError when it had ended by itself."""
        self.process.send_signal(signal.SIGKILL)
        out, err = self.process.communicate(timeout=PATIENCE)
        assert (self.process.returncode, out, err) == (-signal.SIGKILL, "", "")


def spawn(directory: Path, port: int, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kvcore", "apiserver", "--secure-port", str(port), "--json",
         "--data-dir", str(directory), *map(str, arguments)],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class Access:
    """What a kubeconfig says: where, and who one is."""

    def __init__(self, config: Object) -> None:
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.url = cluster["server"]
        self.port = int(self.url.rpartition(":")[2])
        self.ca = base64.b64decode(cluster["certificate-authority-data"])
        self.chain = (base64.b64decode(user["client-key-data"])
                      + base64.b64decode(user["client-certificate-data"]))

    def context(self, *, anonymous: bool = False) -> ssl.SSLContext:
        return client_context(self.ca, b"" if anonymous else self.chain, ("http/1.1",))

    def connect(self, *, anonymous: bool = False) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE,
                                           context=self.context(anonymous=anonymous))


def ask(connection: http.client.HTTPSConnection, method: str, path: str,
        body: object = None, kind: str = "application/json", token: str = "") -> tuple[int, Object]:
    """One request. Returns: code and object."""
    headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


# --- writing --------------------------------------------------------------------------------------

@dataclass
class Known:
    """An object of one writer. `value`: its label as acknowledged, GONE: it is not there;
    `pending`: what was asked for and not answered."""

    path: str
    name: str
    value: object = GONE
    version: int = 0
    object: Object = field(default_factory=dict)
    pending: object = NOTHING

    def new(self, value: str) -> Object:
        obj: Object = {"metadata": {"name": self.name, "labels": {"v": value}}}
        if self.path == PODS:
            obj["spec"] = {"containers": [{"name": "c", "image": "i"}]}
        return obj

    def took(self, obj: Object) -> int:
        """What the server says is there now. Returns: its version."""
        self.object, self.value = obj, obj["metadata"]["labels"]["v"]
        self.version, self.pending = int(obj["metadata"]["resourceVersion"]), NOTHING
        return self.version


class Writer(threading.Thread):
    """Writes to its objects until the server is gone; each acknowledgement is told to `acked`,
    with its version, 0 for a deletion."""

    def __init__(self, access: Access, mine: list[Known], seed: str,
                 acked: Callable[[int], None]) -> None:
        super().__init__(name=f"writer {seed}", daemon=True)
        self.mine, self.seed, self.acked = mine, seed, acked
        self.connection = access.connect()
        self.failed: BaseException | None = None

    def run(self) -> None:
        rng, number = random.Random(self.seed), 0
        try:
            while True:
                number += 1
                self._write(rng.choice(self.mine), rng, f"{self.seed}-{number}")
        except (OSError, http.client.HTTPException):
            pass
        except BaseException as error:
            self.failed = error
        finally:
            self.connection.close()
            self.acked(0)                         # who waits sees that we have ended

    def _write(self, known: Known, rng: random.Random, value: str) -> None:
        one = f"{known.path}/{known.name}"
        if known.value is GONE:
            if rng.random() < 0.2:
                self._refused(422, "POST", known.path, known.new(REFUSED) | {
                    "metadata": {"name": "Not_A_Name", "labels": {"v": REFUSED}}})
            return self._ask(known, value, 201, "POST", known.path, known.new(value))
        match rng.randrange(6):
            case 0:
                self._ask(known, GONE, 200, "DELETE", one)
            case 1:
                self._ask(known, value, 200, "PATCH", one, {"metadata": {"labels": {"v": value}}},
                          "application/merge-patch+json")
            case 2:
                self._ask(known, value, 200, "PATCH", one, [
                    {"op": "test", "path": "/metadata/labels/v", "value": known.value},
                    {"op": "replace", "path": "/metadata/labels/v", "value": value}],
                    "application/json-patch+json")
            case 3:
                self._refused(409, "POST", known.path, known.new(REFUSED))
                self._refused(409, "PUT", one, self._labelled(known, REFUSED, known.version - 1))
            case _:
                self._ask(known, value, 200, "PUT", one,
                          self._labelled(known, value, known.version))

    @staticmethod
    def _labelled(known: Known, value: str, version: int) -> Object:
        metadata = known.object["metadata"] | {"labels": {"v": value},
                                               "resourceVersion": str(version)}
        return known.object | {"metadata": metadata}

    def _ask(self, known: Known, wanted: object, code: int, method: str, path: str,
             *body: Any) -> None:
        known.pending = wanted
        got, obj = ask(self.connection, method, path, *body)
        assert got == code, obj
        if wanted is GONE:
            known.value, known.pending = GONE, NOTHING
            return self.acked(0)
        self.acked(known.took(obj))
        assert known.value == wanted

    def _refused(self, code: int, method: str, path: str, body: Object) -> None:
        got, obj = ask(self.connection, method, path, body)
        assert got == code, obj


# --- watching -------------------------------------------------------------------------------------

class Remote:
    """Stands where a reflector expects an Api in process."""

    def __init__(self, access: Access, session: aiohttp.ClientSession) -> None:
        self.access, self.session, self.context = access, session, access.context()

    async def ask(self, url: str) -> Answer:
        response = await self.session.get(yarl.URL(self.access.url + url, encoded=True),
                                          ssl=self.context)
        if response.status == 200 and "watch=true" in url:
            return Answer(200, chunks=self._lines(response))
        async with response:
            return Answer(response.status, await response.read())

    async def _lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Whole lines, until the connection breaks."""
        try:
            async for line in response.content:
                if line.endswith(b"\n"):
                    yield line
        except (aiohttp.ClientError, OSError):
            pass
        finally:
            response.close()


class Followers(threading.Thread):
    """Reflectors of all pods. They try again when `serving` is told, and end when they have seen
    the pod that `until` names."""

    def __init__(self, access: Access) -> None:
        super().__init__(name="followers", daemon=True)
        self.access = access
        self.reflectors: list[Reflector] = []
        self.failed: BaseException | None = None
        self.until = ""
        self._loop = asyncio.new_event_loop()
        self._up = asyncio.Event()

    def serving(self, yes: bool) -> None:
        self._loop.call_soon_threadsafe(self._up.set if yes else self._up.clear)

    def run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        except BaseException as error:
            self.failed = error
        finally:
            self._loop.close()

    async def _main(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
            remote = Remote(self.access, session)
            self.reflectors = [
                Reflector(remote, "/api/v1/pods", watch_list=watch_list)    # type: ignore[arg-type]
                for watch_list in (True, False)]
            await asyncio.gather(*map(self._follow, self.reflectors))
        await connections_closed()

    async def _follow(self, each: Reflector) -> None:
        while not self.until or ("default", self.until) not in each.store:
            if each.stream is not None and each.stream._next is not None:
                await asyncio.wait({each.stream._next})
            try:
                await self._up.wait()
                await each.step()
            except (aiohttp.ClientError, OSError):
                pass
        await each.close()
