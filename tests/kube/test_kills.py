# SPDX-License-Identifier: Apache-2.0
"""An API server that is killed under load: what it acknowledged is there, what it refused is not.

One directory lives through all rounds. Each: start, look at everything that was acknowledged
before, write from several clients over HTTPS, SIGKILL behind a random acknowledgement, `kvcore
check`.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from commands import Run
from kube_process import (
    CONFIG_MAPS,
    GONE,
    NOTHING,
    PODS,
    REFUSED,
    Access,
    Followers,
    Known,
    Object,
    Process,
    Writer,
    ask,
    free_port,
    spawn,
)
from kube_wires import PATIENCE
from reflector import key
from soak import Soaking

WRITERS = 4
KILLS = 6
ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"
MYSELF = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


class Life:
    """What a directory has acknowledged, through all its processes."""

    def __init__(self) -> None:
        self.objects = [[Known(path, f"w{writer}-{number}")
                         for path in (CONFIG_MAPS, PODS) for number in range(4)]
                        for writer in range(WRITERS)]
        self.versions: set[int] = set()
        self.highest = 0                      # version that was shown before the last kill
        self.tokens: list[str] = []
        self.acks = 0
        self._more = threading.Condition()

    def acked(self, version: int) -> None:
        """By any writer."""
        with self._more:
            self.acks += 1
            if version:
                assert version > self.highest, "a revision was given twice"
                assert version not in self.versions, "a revision was given twice"
                self.versions.add(version)
            self._more.notify_all()

    def wait(self, acks: int, writers: list[Writer]) -> None:
        wanted = self.acks + acks
        with self._more:
            assert self._more.wait_for(
                lambda: self.acks >= wanted or any(w.failed for w in writers), PATIENCE)
        assert [w.failed for w in writers] == [None] * len(writers)

    def check(self, access: Access) -> None:
        """Behind a start: every object is as acknowledged, or as it was last asked for."""
        connection = access.connect()
        found: dict[tuple[str, str], Object] = {}
        for path in (CONFIG_MAPS, PODS):
            code, listed = ask(connection, "GET", path)
            assert code == 200 and int(listed["metadata"]["resourceVersion"]) >= max(
                self.versions, default=0)
            found |= {(path, o["metadata"]["name"]): o for o in listed["items"]}
        self.highest = max(self.versions, default=0)
        for known in (known for mine in self.objects for known in mine):
            self._check(known, found.pop((known.path, known.name), None))
        assert set(found) <= {(CONFIG_MAPS, "kube-root-ca.crt")}
        connection.close()
        connection = access.connect(anonymous=True)         # a certificate goes before a token
        for token in self.tokens:
            code, review = ask(connection, "POST", MYSELF, {}, token=token)
            assert code == 201 and review["status"]["userInfo"]["username"] == (
                "system:serviceaccount:default:default")
        connection.close()

    def _check(self, known: Known, obj: Object | None) -> None:
        value = GONE if obj is None else obj["metadata"]["labels"]["v"]
        version = 0 if obj is None else int(obj["metadata"]["resourceVersion"])
        assert value != REFUSED
        if value == known.value:
            assert value is GONE or version == known.version, (known, obj)
        else:
            assert known.pending is not NOTHING and value == known.pending, (known, obj)
            assert obj is None or version > known.version
            if obj is not None:
                assert version not in self.versions
                self.versions.add(version)
                known.took(obj)
        known.value, known.pending = value, NOTHING
        self.highest = max(self.highest, version)


def issue(access: Access) -> str:
    """A token of the account `default`, once that is there."""
    connection = access.connect()
    connection.request("GET", "/api/v1/namespaces/default/serviceaccounts?watch=1"
                              "&fieldSelector=metadata.name=default")
    assert json.loads(connection.getresponse().readline())["type"] == "ADDED"
    connection.close()
    code, made = ask(connection, "POST", f"{ACCOUNT}/token", {"spec": {}})
    connection.close()
    assert code == 201
    return str(made["status"]["token"])


def last(access: Access, followers: Followers) -> None:
    """The reflectors end with what the server lists."""
    connection = access.connect()
    followers.until = "last"
    assert ask(connection, "POST", PODS, Known(PODS, "last").new("last"))[0] == 201
    followers.join(PATIENCE)
    assert not followers.is_alive() and followers.failed is None, followers.failed
    code, listed = ask(connection, "GET", "/api/v1/pods")
    connection.close()
    assert code == 200
    for each in followers.reflectors:
        assert each.store == {key(item): item for item in listed["items"]}


def write(life: Life, access: Access, number: int, acks: int) -> list[Writer]:
    """Begins to write. Returns: the writers, after so many acknowledgements."""
    writers = [Writer(access, mine, f"{number}-{index}", life.acked)
               for index, mine in enumerate(life.objects)]
    for writer in writers:
        writer.start()
    life.wait(acks, writers)
    return writers


@pytest.mark.soak(weight=0.5)
def test_kills_under_load(ram_dir: Path, run: Run, counts: Counter[str],
                          soaking: Soaking) -> None:
    rng, life, port = random.Random(0), Life(), free_port()
    config = ram_dir / "kubeconfig"
    with ExitStack() as running:
        process = running.enter_context(
            Process(ram_dir / "data", port, "--write-kubeconfig", config))
        access = Access(yaml.safe_load(config.read_text()))     # one, for all processes
        followers = Followers(access)
        followers.start()
        for number in soaking(KILLS):
            life.check(access)
            life.tokens.append(issue(access))
            followers.serving(True)
            writers = write(life, access, number, rng.choice([1, 10, 50, 150, 300]))
            followers.serving(False)
            process.kill()
            for writer in writers:
                writer.join(PATIENCE)
                assert not writer.is_alive() and writer.failed is None, writer.failed
            assert run("check", ram_dir / "data")[0] == 0
            counts["API servers killed"] += 1
            process = running.enter_context(
                Process(ram_dir / "data", port, "--replicas", 1 + number % 2))
        life.check(access)
        followers.serving(True)
        last(access, followers)


def test_kills_while_it_starts(ram_dir: Path, run: Run) -> None:
    """Whatever was made of a directory by then, the next start goes on with it."""
    rng, port = random.Random(1), free_port()
    for _ in range(3):
        process = spawn(ram_dir / "data", port)
        try:
            process.wait(rng.uniform(0.2, 0.8))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        err = process.communicate(timeout=PATIENCE)[1]
        assert (process.returncode, err) == (-signal.SIGKILL, "")
    config = ram_dir / "kubeconfig"
    with Process(ram_dir / "data", port, "--write-kubeconfig", config):
        assert issue(Access(yaml.safe_load(config.read_text())))
    assert run("check", ram_dir / "data")[0] == 0
