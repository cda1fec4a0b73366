# SPDX-License-Identifier: Apache-2.0
"""All verbs over a few objects, beside a dictionary that keeps the rules in the plainest words.

Compared after each step: the answer's code, the object, whether a revision was taken; and the
events of a watch that was there from the beginning. Bugs planted and found by it: a no-op that
writes, an update that loses deletionTimestamp, a last finalizer that leaves the object, a version
that is not looked at.
"""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from kube_server import CONFIG_MAPS, Events, Kube, Object, Reply

from kvcore.kube.meta import rfc3339

NAMES = st.sampled_from(["a", "b", "c"])
DATA = st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12"), max_size=2)
FINALIZERS = st.lists(st.sampled_from(["f.io/1", "f.io/2"]), unique=True, max_size=2)
LABELS = st.sampled_from([None, {"l": "1"}])
POLICIES = st.sampled_from([None, "Foreground", "Orphan", "Background"])
GC = {"Foreground": ["foregroundDeletion"], "Orphan": ["orphan"], "Background": []}


def tidy(obj: Object) -> Object:
    """What is empty is as good as absent."""
    return {key: value for key, value in obj.items() if value}


class Model(dict[str, Object]):
    """Objects by name; each rule answers (code, object)."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, str]] = []

    def held(self) -> list[str]:
        """Those that are being deleted, and are there because of their finalizers."""
        return sorted(name for name, obj in self.items()
                      if "deletionTimestamp" in obj["metadata"])

    def put(self, name: str, obj: Object, revision: int) -> Object:
        self.events.append(("MODIFIED" if name in self else "ADDED", name))
        self[name] = copy.deepcopy(obj)
        self[name]["metadata"]["resourceVersion"] = str(revision)
        return self[name]

    def drop(self, name: str) -> None:
        self.events.append(("DELETED", name))
        del self[name]

    def create(self, name: str, sent: Object, made: Object, revision: int) -> int:
        if name in self:
            return 409
        wanted = copy.deepcopy(sent)
        for part in ("uid", "creationTimestamp", "namespace"):
            wanted["metadata"][part] = made["metadata"][part]
        self.put(name, wanted, revision)
        return 201

    def change(self, name: str, sent: Object, revision: int) -> tuple[int, Object | None]:
        """An object in place of the one that is there."""
        if name not in self:
            return 404, None
        now, new = self[name], copy.deepcopy(sent)
        metadata, old = new["metadata"], now["metadata"]
        version = metadata.pop("resourceVersion", None)
        if version is not None and version != old["resourceVersion"]:
            return 409, None
        for part in ("uid", "creationTimestamp", "namespace", "deletionTimestamp",
                     "deletionGracePeriodSeconds"):
            if part in old:
                metadata[part] = old[part]
        ending = "deletionTimestamp" in old
        if ending and set(metadata.get("finalizers", [])) - set(old.get("finalizers", [])):
            return 422, None
        if ending and not metadata.get("finalizers"):
            self.drop(name)
            metadata["resourceVersion"] = old["resourceVersion"]
            return 200, new
        metadata["resourceVersion"] = old["resourceVersion"]
        if new == now:
            return 200, now
        return 200, self.put(name, new, revision)

    def delete(self, name: str, policy: str | None, time: str,
               revision: int) -> tuple[int, Object | None]:
        if name not in self:
            return 404, None
        obj = copy.deepcopy(self[name])
        metadata = obj["metadata"]
        if policy is not None:
            kept = [f for f in metadata.get("finalizers", []) if "/" in f] + GC[policy]
            metadata.pop("finalizers", None)
            if kept:
                metadata["finalizers"] = kept
        if not metadata.get("finalizers"):
            self.drop(name)
            return 200, None
        metadata.setdefault("deletionTimestamp", time)
        metadata["deletionGracePeriodSeconds"] = 0
        if obj == self[name]:
            return 200, obj
        return 200, self.put(name, obj, revision)


class Verbs(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.kube = Kube().__enter__()
        self.model = Model()
        self.events: Events
        self.before = 0

    @initialize()
    def begin(self) -> None:
        """One object is being deleted, and held: few rules in a row come there by themselves."""
        self.events = self.kube.watch(CONFIG_MAPS)
        self.create("a", {"x": "1"}, ["f.io/1", "f.io/2"], None)
        self.delete("a", None)

    def teardown(self) -> None:
        self.kube.__exit__()

    def ask(self, method: str, name: str, body: Any = None, patch: str = "",
            query: str = "") -> Reply:
        self.kube.now += 1
        self.before = self.kube.store.revision
        url = CONFIG_MAPS if method == "POST" else f"{CONFIG_MAPS}/{name}"
        return self.kube.call(method, url + query, body, patch=patch)

    def body(self, name: str, data: Object, finalizers: list[str], labels: Object | None) -> Object:
        metadata: Object = {"name": name}
        if finalizers:
            metadata["finalizers"] = finalizers
        if labels:
            metadata["labels"] = labels
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}

    def check(self, reply: Reply, code: int, obj: Object | None) -> None:
        assert reply.code == code, reply
        if obj is not None:
            assert tidy(reply.obj) == tidy(obj)

    @rule(name=NAMES, data=DATA, finalizers=FINALIZERS, labels=LABELS)
    def create(self, name: str, data: Object, finalizers: list[str], labels: Object | None) -> None:
        sent = self.body(name, data, finalizers, labels)
        reply = self.ask("POST", name, sent)
        code = self.model.create(name, sent, reply.obj, self.before + 1)
        self.check(reply, code, self.model[name] if code == 201 else None)

    @rule(name=NAMES, data=DATA, finalizers=FINALIZERS, labels=LABELS,
          version=st.sampled_from([None, "now", "1"]))
    def update(self, name: str, data: Object, finalizers: list[str], labels: Object | None,
               version: str | None) -> None:
        sent = self.body(name, data, finalizers, labels)
        if version == "now" and name in self.model:
            version = self.model[name]["metadata"]["resourceVersion"]
        if version not in (None, "now"):
            sent["metadata"]["resourceVersion"] = version
        reply = self.ask("PUT", name, sent)
        self.check(reply, *self.model.change(name, sent, self.before + 1))

    @precondition(lambda self: self.model.held())
    @rule(data=DATA, at=st.integers(0, 2), more=st.booleans())
    def update_what_is_held(self, data: Object, at: int, more: bool) -> None:
        """A PUT that says nothing of the deletion, as a client that knows nothing of it sends."""
        held = self.model.held()
        name = held[at % len(held)]
        finalizers = self.model[name]["metadata"]["finalizers"]
        sent = self.body(name, data, [*finalizers, "f.io/more"] if more else finalizers, None)
        reply = self.ask("PUT", name, sent)
        self.check(reply, *self.model.change(name, sent, self.before + 1))

    @rule(name=NAMES, data=st.dictionaries(st.sampled_from("xyz"), st.sampled_from(["1", None]),
                                           max_size=2))
    def merge_data(self, name: str, data: Object) -> None:
        reply = self.ask("PATCH", name, {"data": data}, patch="merge")
        sent = copy.deepcopy(self.model.get(name, {"metadata": {}, "data": {}}))
        for key, value in data.items():
            sent["data"].pop(key, None)
            if value is not None:
                sent["data"][key] = value
        self.check(reply, *self.model.change(name, sent, self.before + 1))

    @rule(name=NAMES, finalizers=st.one_of(st.none(), FINALIZERS))
    def merge_finalizers(self, name: str, finalizers: list[str] | None) -> None:
        reply = self.ask("PATCH", name, {"metadata": {"finalizers": finalizers}}, patch="merge")
        sent = copy.deepcopy(self.model.get(name, {"metadata": {}}))
        sent["metadata"].pop("finalizers", None)
        if finalizers:
            sent["metadata"]["finalizers"] = finalizers
        self.check(reply, *self.model.change(name, sent, self.before + 1))

    @rule(name=NAMES, value=st.sampled_from("12"))
    def test_and_replace(self, name: str, value: str) -> None:
        reply = self.ask("PATCH", name, [{"op": "test", "path": "/data/x", "value": value},
                                         {"op": "add", "path": "/data/y", "value": "9"}], "json")
        sent = copy.deepcopy(self.model.get(name, {"metadata": {}, "data": {}}))
        if name in self.model and sent["data"].get("x") != value:
            return self.check(reply, 422, None)
        sent["data"]["y"] = "9"
        self.check(reply, *self.model.change(name, sent, self.before + 1))

    @rule(name=NAMES, policy=POLICIES)
    def delete(self, name: str, policy: str | None) -> None:
        query = f"?propagationPolicy={policy}" if policy else ""
        reply = self.ask("DELETE", name, query=query)
        time = rfc3339(self.kube.now)
        self.check(reply, *self.model.delete(name, policy, time, self.before + 1))

    @rule()
    def delete_all(self) -> None:
        plain = [n for n, o in self.model.items() if not o["metadata"].get("finalizers")]
        if len(plain) == len(self.model):
            reply = self.kube.call("DELETE", CONFIG_MAPS)
            assert reply.code == 200 and len(reply.obj["items"]) == len(plain)
            for name in sorted(plain):
                self.model.drop(name)

    @precondition(lambda self: hasattr(self, "events"))
    @invariant()
    def the_same(self) -> None:
        listed = self.kube.call("GET", CONFIG_MAPS).obj["items"]
        assert ({i["metadata"]["name"]: tidy(i) for i in listed}
                == {name: tidy(obj) for name, obj in self.model.items()})
        events = [(kind, obj["metadata"]["name"]) for kind, obj in self.events.take()]
        assert events == self.model.events
        self.model.events = []


Verbs.TestCase.settings = settings(stateful_step_count=30)
TestVerbs = Verbs.TestCase
