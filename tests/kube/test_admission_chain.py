# SPDX-License-Identifier: Apache-2.0
"""The chain: which plugins, in which order, whose fault, and what happens after the write."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from admission_world import Object, World, namespace, pod, said

from kvcore.kube import status
from kvcore.kube.admission import Chain, as_plugin, forbidden, mutating, review, validating
from kvcore.kube.admission.plugins import PLUGINS, build_chain
from kvcore.kube.admission.podsecurity import PodSecurity, Standard
from kvcore.kube.call import Call

ON = ["NamespaceLifecycle", "LimitRanger", "ServiceAccount", "PodSecurity", "Priority",
      "DefaultTolerationSeconds", "DefaultStorageClass", "MutatingAdmissionWebhook",
      "ValidatingAdmissionWebhook", "ResourceQuota"]


def names(chain: Chain) -> list[str]:
    return [plugin.name for plugin in chain.plugins]


# --- which ----------------------------------------------------------------------------------------

def test_the_default_chain() -> None:
    assert names(build_chain()) == ON
    assert [row.name for row in PLUGINS if row.default] == ON


def test_enabling_and_disabling() -> None:
    @validating()
    def mine(call: Call) -> None: ...

    chain = build_chain(["AlwaysDeny", "AlwaysAdmit", "Priority"],
                        ["PodSecurity", "NodeRestriction"], plugins=[mine])
    wanted = ["AlwaysAdmit", *ON, "AlwaysDeny"]
    wanted.remove("PodSecurity")
    wanted.insert(wanted.index("ResourceQuota"), "mine")
    assert names(chain) == wanted


@pytest.mark.parametrize(("enable", "disable", "why"), [
    (["Nope"], [], 'enable-admission-plugins plugin "Nope" is unknown'),
    ([], ["Nope"], 'disable-admission-plugins plugin "Nope" is unknown'),
    (["Nope"], ["Nada"], '[enable-admission-plugins plugin "Nope" is unknown, '
     'disable-admission-plugins plugin "Nada" is unknown]'),
    (["Priority"], ["Priority"], "[Priority] in enable-admission-plugins and "
     "disable-admission-plugins overlapped"),
    (["PodSecurityPolicy"], [], 'enable-admission-plugins plugin "PodSecurityPolicy" is unknown: '
     "it was removed in Kubernetes v1.25; PodSecurity is what replaces it"),
    (["SecurityContextDeny"], [], 'enable-admission-plugins plugin "SecurityContextDeny" is '
     "unknown: it was removed in Kubernetes v1.30; PodSecurity with level restricted is "
     "what replaces it"),
    (["NodeRestriction"], [], 'enable-admission-plugins plugin "NodeRestriction" is unknown: '
     "Kubernetes has it, kvcore does not"),
])
def test_unknown_names(enable: list[str], disable: list[str], why: str) -> None:
    with pytest.raises(ValueError) as caught:
        build_chain(enable, disable)
    assert str(caught.value) == why


# --- the configuration file -----------------------------------------------------------------------

HEAD = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n"
SECURITY = """apiVersion: pod-security.admission.config.k8s.io/v1
kind: PodSecurityConfiguration
defaults: {enforce: baseline, enforce-version: v1.30, warn: restricted}
exemptions: {usernames: [root], namespaces: [kube-system], runtimeClasses: [vm]}
"""


def test_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "security.yaml").write_text(SECURITY)
    file = tmp_path / "admission.yaml"
    file.write_text(HEAD + """plugins:
- {name: PodSecurity, path: security.yaml}
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources: [{resource: pods, matchContains: [gpu]}]
""")
    chain = build_chain(config=file)
    security = next(p for p in chain.plugins if isinstance(p, PodSecurity))
    assert security.defaults.enforce == Standard("baseline", 30)
    assert str(security.defaults.warn) == "restricted:latest"
    assert security.exempt.namespaces == {"kube-system"} and security.exempt.usernames == {"root"}
    quota: Any = next(p for p in chain.plugins if p.name == "ResourceQuota")
    assert [(each.qualified, each.contains) for each in quota.limited] == [("pods", ("gpu",))]


def plugin_config(name: str, **own: Any) -> Object:
    return {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
            "plugins": [{"name": name, "configuration": own}]}


def security(**own: Any) -> Object:
    return plugin_config("PodSecurity", apiVersion="pod-security.admission.config.k8s.io/v1",
                         kind="PodSecurityConfiguration", **own)


WHERE = "AdmissionConfiguration: plugins[0].configuration"


@pytest.mark.parametrize(("config", "why"), [
    ({"kind": "AdmissionConfiguration"}, 'AdmissionConfiguration: no kind "AdmissionConfiguration" '
     'is registered for version ""; apiserver.config.k8s.io/v1, Kind=AdmissionConfiguration is '
     "what belongs here"),
    (plugin_config("Nope"), 'AdmissionConfiguration: plugins[0].name: unknown admission plugin '
     '"Nope"'),
    (plugin_config("PodSecurity") | {"extra": 1},
     'AdmissionConfiguration: strict decoding error: unknown field "extra"'),
    (plugin_config("LimitRanger", a=1), f"{WHERE}: this plugin takes no configuration"),
    (security(default={}), f'{WHERE}: strict decoding error: unknown field "default"'),
    (security(defaults={"enforced": "x"}),
     f'{WHERE}: strict decoding error: unknown field "defaults.enforced"'),
    (security(defaults={"enforce": "x", "warn-version": "1.2"}),
     f'{WHERE}: [defaults.enforce: Invalid value: "x": must be one of privileged, baseline, '
     'restricted, defaults.warn-version: Invalid value: "1.2": must be "latest" or "v1.x"]'),
    (security(exemptions={"usernames": ["", "a", "a"]}),
     f'{WHERE}: [exemptions.usernames[0]: Invalid value: "": username must not be empty, '
     'exemptions.usernames[2]: Duplicate value: "a"]'),
])
def test_what_is_wrong_in_a_configuration(config: Object, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        build_chain(config=config)
    assert str(caught.value) == why


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="unable to read admission control configuration from"):
        build_chain(config=tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    for text in ("{", "[]", "- a"):
        bad.write_text(text)
        with pytest.raises(ValueError, match="bad.yaml"):
            build_chain(config=bad)


# --- plugins of one's own -------------------------------------------------------------------------

def test_order_and_operations() -> None:
    heard: list[tuple[str, str]] = []

    @mutating("CREATE", name="first")
    def first(call: Call) -> None:
        heard.append(("first", call.operation))
        call.object["metadata"]["labels"] = {"seen": "yes"}

    @validating("CREATE", "DELETE", resources=["pods"])
    async def second(call: Call) -> None:
        await asyncio.sleep(0)
        heard.append(("second", call.operation))

    class Third:
        def validate(self, call: Call) -> None:
            heard.append(("third", call.operation))

    with World(chain=build_chain(disable=["ServiceAccount"], plugins=[first, second, Third])) \
            as world:
        created = world.create(pod())
        assert created["metadata"]["labels"] == {"seen": "yes"}
        assert heard == [("first", "CREATE"), ("second", "CREATE"), ("third", "CREATE")]
        heard.clear()
        world.admit(pod(), pod(), operation="UPDATE")
        world.admit(pod(), pod(), operation="DELETE")
        world.admit(pod(), subresource="status")
        assert heard == [("third", "UPDATE"), ("second", "DELETE"), ("first", "CREATE"),
                         ("third", "CREATE")]


def test_the_first_refusal_ends_it() -> None:
    heard: list[str] = []

    @validating()
    def no(call: Call) -> None:
        raise forbidden(call, "no")

    @validating()
    def after(call: Call) -> None:
        heard.append("after")

    times: list[tuple[Any, ...]] = []
    with World(chain=Chain([no, after], lambda *said: lambda s: times.append(said))) as world:
        with pytest.raises(status.ApiError, match='pods "web" is forbidden: no'):
            world.create(pod())
        assert heard == [] and world.stored("Pod", "web") is None
        assert times == [("no", "validate", "CREATE", True)]


@pytest.mark.parametrize("late", [False, True])
def test_a_broken_plugin_is_named(late: bool) -> None:
    """500 with its name; nothing is stored; the next request is served."""
    @validating()
    def broken(call: Call) -> Any:
        if call.object["metadata"]["name"] == "bad":
            if late:
                return wait()
            raise KeyError("tag")
        return None

    async def wait() -> None:
        raise KeyError("tag")

    @validating("CREATE")
    def wrong(call: Call) -> Any:
        return True if call.object["metadata"]["name"] == "worse" else None

    with World(broken, wrong) as world:
        found = world.refused(pod("bad"))
        assert said(found) == (500, "InternalError", 'Internal error occurred: admission plugin '
                               '"broken" failed to complete: KeyError: \'tag\'')
        assert 'admission plugin "wrong" failed to complete: TypeError' in \
            said(world.refused(pod("worse")))[2]
        with pytest.raises(status.ApiError):
            world.create(pod("bad"))
        assert world.stored("Pod", "bad") is None
        world.create(pod("good"))


def test_reinvocation_happens_once() -> None:
    rounds: list[int] = []

    @mutating()
    def restless(call: Call) -> None:
        rounds.append(review(call).round)
        review(call).again = True

    @mutating()
    async def slow(call: Call) -> None:
        await asyncio.sleep(0)

    for plugins in ([restless], [restless, slow]):
        rounds.clear()
        with World(*plugins) as world:
            world.admit(pod())
        assert rounds == [0, 1]


def test_what_is_no_plugin() -> None:
    with pytest.raises(TypeError, match="admit"):
        as_plugin(7)
    with pytest.raises(ValueError, match="operations are"):
        validating("PATCH")(lambda call: None)


def test_times_go_to_the_metrics() -> None:
    with World(chain=build_chain(disable=["ServiceAccount"])) as world:
        before = {labels: sum(counts) for labels, (counts, _)
                  in world.api.metrics.admission.counts.items()}
        world.create(pod())
        assert {(name, kind) for (name, kind, operation, rejected), (counts, _)
                in world.api.metrics.admission.counts.items()
                if sum(counts) > before.get((name, kind, operation, rejected), 0)} == {
            ("NamespaceLifecycle", "admit"), ("LimitRanger", "admit"), ("LimitRanger", "validate"),
            ("PodSecurity", "validate"), ("Priority", "admit"), ("Priority", "validate"),
            ("DefaultTolerationSeconds", "admit"), ("DefaultStorageClass", "admit"),
            ("MutatingAdmissionWebhook", "admit"), ("ValidatingAdmissionWebhook", "validate"),
            ("ResourceQuota", "validate")}


# --- after the write ------------------------------------------------------------------------------

class Slow:
    """Refuses pods called bad, when it is let."""

    name = "Slow"
    operations = frozenset({"CREATE", "UPDATE"})

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def validate(self, call: Call) -> None:
        await self.gate.wait()
        if call.object["metadata"]["name"].startswith("bad"):
            raise forbidden(call, "it is bad")


def test_deferred_validation_rolls_back() -> None:
    slow = Slow()
    with World(chain=Chain([slow], async_admission=True)) as world:
        chain = world.api.admission
        for name in ("bad", "good", "bad-changed"):
            world.create(pod(name))                          # answered though nobody has looked
            assert world.stored("Pod", name) is not None
        world.store(pod("bad-changed", nodeName="n1"))       # somebody else was quicker
        slow.gate.set()
        world.run(chain.stop())
        assert world.stored("Pod", "bad") is None
        assert world.stored("Pod", "good") is not None
        assert world.stored("Pod", "bad-changed") is not None
        assert (chain.rolled_back, chain.kept) == (1, 1)


def test_deferred_validation_is_of_creates_only() -> None:
    slow = Slow()
    slow.gate.set()
    with World(chain=Chain([slow], async_admission=True)) as world:
        assert said(world.refused(pod("bad"), pod("bad"), operation="UPDATE"))[0] == 403
        assert said(world.refused(pod("bad"), dry_run=True))[0] == 403


def test_a_refused_create_is_told_at_once_by_default() -> None:
    slow = Slow()
    slow.gate.set()
    with World(chain=Chain([slow])) as world:
        with pytest.raises(status.ApiError, match="it is bad"):
            world.create(pod("bad"))
        assert world.stored("Pod", "bad") is None


def test_the_whole_default_chain_creates() -> None:
    """One pod through all of it, with what it needs there."""
    with World(chain=build_chain()) as world:
        world.store({"apiVersion": "v1", "kind": "ServiceAccount",
                     "metadata": {"name": "default", "namespace": "default"}})
        spec = world.create(pod())["spec"]
        assert spec["priority"] == 0 and len(spec["tolerations"]) == 2
        assert spec["serviceAccountName"] == "default" and len(spec["volumes"]) == 1
        with pytest.raises(status.ApiError, match='namespaces "x" not found'):
            world.create(pod("web", "x"))
        world.store(namespace("x"))
