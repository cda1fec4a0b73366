# SPDX-License-Identifier: Apache-2.0
"""The roles and bindings that every cluster has, and how a server makes sure of them at its start.

    ROLES, BINDINGS ──> expected objects ── what the store has ──> one transaction: what is missing

As upstream: what is missing (an object, a rule, a label, a subject) is added, what was added by
somebody stays, and an object annotated `rbac.authorization.kubernetes.io/autoupdate: "false"` is
left alone; a binding to another role is made anew. Names, rules and subjects are those of
Kubernetes 1.36 with stable features; left out: the roles of the controllers in
kube-controller-manager, and those of the namespaces kube-system and kube-public.
Source: kubernetes plugin/pkg/auth/authorizer/rbac/bootstrappolicy. May not know: HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kvcore import Compare, Put, Txn
from kvcore.kube.codec import object_of
from kvcore.kube.meta import new_uid, rfc3339
from kvcore.kube.rbac import GROUP, Role, Rule, aggregated, role_of, uncovered

if TYPE_CHECKING:
    from kvcore.kube.api import Api

__all__ = ["bootstrap", "expected_bindings", "expected_roles"]

Object = dict[str, Any]
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
AGGREGATE = "rbac.authorization.k8s.io/"
TRIES = 5                        # of several servers that start over one store

# A role a paragraph: its name; the label by which others aggregate it; the label it aggregates.
# A rule a line: verbs | groups | resources or URLs | names. Longer lines go on further right.
# core is the group "", urls says that no resource is meant, read and write stand for READ, WRITE.
ROLES = """
admin  selects=aggregate-to-admin
cluster-admin
  * | * | *
  * | urls | *
edit  label=aggregate-to-admin  selects=aggregate-to-edit
system:aggregate-to-admin  label=aggregate-to-admin
  create | authorization.k8s.io | localsubjectaccessreviews
  read write | rbac.authorization.k8s.io | rolebindings roles
system:aggregate-to-edit  label=aggregate-to-edit
  read | core | pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy
  impersonate | core | serviceaccounts
  write | core | pods pods/attach pods/exec pods/portforward pods/proxy
  create | core | pods/eviction
  write | core | configmaps persistentvolumeclaims replicationcontrollers
      replicationcontrollers/scale secrets serviceaccounts services services/proxy
  create | core | serviceaccounts/token
  write | core events.k8s.io | events
  write | apps | daemonsets deployments deployments/rollback deployments/scale replicasets
      replicasets/scale statefulsets statefulsets/scale
  write | autoscaling | horizontalpodautoscalers
  write | batch | cronjobs jobs
  write | extensions | daemonsets deployments deployments/rollback deployments/scale ingresses
      networkpolicies replicasets replicasets/scale replicationcontrollers/scale
  write | policy | poddisruptionbudgets
  write | networking.k8s.io | ingresses networkpolicies
  read write | coordination.k8s.io | leases
  write | resource.k8s.io | resourceclaims resourceclaimtemplates
system:aggregate-to-view  label=aggregate-to-view
  read | core | configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods
      replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status
  read | core | bindings limitranges namespaces/status pods/log pods/status
      replicationcontrollers/status resourcequotas resourcequotas/status
  read | core | namespaces
  read | core events.k8s.io | events
  read | discovery.k8s.io | endpointslices
  read | apps | controllerrevisions daemonsets daemonsets/status deployments deployments/scale
      deployments/status replicasets replicasets/scale replicasets/status statefulsets
      statefulsets/scale statefulsets/status
  read | autoscaling | horizontalpodautoscalers horizontalpodautoscalers/status
  read | batch | cronjobs cronjobs/status jobs jobs/status
  read | extensions | daemonsets daemonsets/status deployments deployments/scale deployments/status
      ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status
      replicationcontrollers/scale
  read | policy | poddisruptionbudgets poddisruptionbudgets/status
  read | networking.k8s.io | ingresses ingresses/status networkpolicies
  read | resource.k8s.io | resourceclaims resourceclaims/status resourceclaimtemplates
system:auth-delegator
  create | authentication.k8s.io | tokenreviews
  create | authorization.k8s.io | subjectaccessreviews
system:basic-user
  create | authorization.k8s.io | selfsubjectaccessreviews selfsubjectrulesreviews
  create | authentication.k8s.io | selfsubjectreviews
system:certificates.k8s.io:certificatesigningrequests:nodeclient
  create | certificates.k8s.io | certificatesigningrequests/nodeclient
system:certificates.k8s.io:certificatesigningrequests:selfnodeclient
  create | certificates.k8s.io | certificatesigningrequests/selfnodeclient
system:certificates.k8s.io:kube-apiserver-client-approver
  approve | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client
system:certificates.k8s.io:kube-apiserver-client-kubelet-approver
  approve | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client-kubelet
system:certificates.k8s.io:kubelet-serving-approver
  approve | certificates.k8s.io | signers | kubernetes.io/kubelet-serving
system:certificates.k8s.io:legacy-unknown-approver
  approve | certificates.k8s.io | signers | kubernetes.io/legacy-unknown
system:discovery
  get | urls | /api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version
      /version/
system:heapster
  read | core | events namespaces nodes pods
  read | extensions | deployments
system:kube-aggregator
  read | core | endpoints services
system:kube-controller-manager
  create update patch | core events.k8s.io | events
  create | coordination.k8s.io | leases
  get update | coordination.k8s.io | leases | kube-controller-manager
  create | core | secrets serviceaccounts
  delete | core | secrets
  get | core | configmaps namespaces secrets serviceaccounts
  update | core | secrets serviceaccounts
  create | authentication.k8s.io | tokenreviews
  create | authorization.k8s.io | subjectaccessreviews
  list watch | * | *
  create | core | serviceaccounts/token
system:kube-dns
  list watch | core | endpoints services
system:kube-scheduler
  create update patch | core events.k8s.io | events
  create | coordination.k8s.io | leases
  read update | coordination.k8s.io | leases | kube-scheduler
  read write | coordination.k8s.io | leasecandidates
  read | core | nodes
  read delete | core | pods
  create | core | bindings pods/binding
  update patch | core | pods/status
  read | core | replicationcontrollers services
  read | apps extensions | replicasets
  read | apps | statefulsets
  read | policy | poddisruptionbudgets
  read | core | persistentvolumeclaims persistentvolumes
  create | authentication.k8s.io | tokenreviews
  create | authorization.k8s.io | subjectaccessreviews
  read | storage.k8s.io | csinodes
  read | storage.k8s.io | volumeattachments
  read | core | namespaces
  read | storage.k8s.io | csidrivers
  read | storage.k8s.io | csistoragecapacities
  read | resource.k8s.io | deviceclasses
  read update patch | resource.k8s.io | resourceclaims
  read update patch | resource.k8s.io | resourceclaims/status
  update | core | pods/finalizers
  read | resource.k8s.io | resourceslices
  create delete | resource.k8s.io | resourceclaims
  update patch | resource.k8s.io | resourceclaims/binding
system:kubelet-api-admin
  read | core | nodes
  proxy | core | nodes
  * | core | nodes/log nodes/metrics nodes/proxy nodes/stats
  * | core | nodes/configz nodes/healthz nodes/pods
system:monitoring
  get | urls | /flagz /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*
      /statusz
  get | core | nodes/metrics
system:node
  create | authentication.k8s.io | tokenreviews
  create | authorization.k8s.io | localsubjectaccessreviews subjectaccessreviews
  read | core | services
  read create | core | nodes
  update patch | core | nodes/status
  update patch | core | nodes
  create update patch | core events.k8s.io | events
  read | core | pods
  create delete | core | pods
  update patch | core | pods/status
  create | core | pods/eviction
  read | core | configmaps secrets
  get | core | persistentvolumeclaims persistentvolumes
  get | core | endpoints
  read create | certificates.k8s.io | certificatesigningrequests
  get create update patch delete | coordination.k8s.io | leases
  get | storage.k8s.io | volumeattachments
  create | core | serviceaccounts/token
  get update patch | core | persistentvolumeclaims/status
  read | storage.k8s.io | csidrivers
  get create update patch delete | storage.k8s.io | csinodes
  read | node.k8s.io | runtimeclasses
  get | resource.k8s.io | resourceclaims
  deletecollection | resource.k8s.io | resourceslices
  get | core | serviceaccounts
system:node-bootstrapper
  read create | certificates.k8s.io | certificatesigningrequests
system:node-problem-detector
  get | core | nodes
  patch | core | nodes/status
  create update patch | core events.k8s.io | events
system:node-proxier
  list watch | core | endpoints services
  read | core | nodes
  create update patch | core events.k8s.io | events
  list watch | networking.k8s.io | servicecidrs
  list watch | discovery.k8s.io | endpointslices
system:persistent-volume-provisioner
  read create delete | core | persistentvolumes
  read update | core | persistentvolumeclaims
  read | storage.k8s.io | storageclasses
  watch | core | events
  create update patch | core events.k8s.io | events
system:public-info-viewer
  get | urls | /healthz /livez /readyz /version /version/
system:service-account-issuer-discovery
  get | urls | /.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks
      /openid/v1/jwks/
system:volume-scheduler
  read update patch | core | persistentvolumes
  read | storage.k8s.io | storageclasses
  read update patch | core | persistentvolumeclaims
view  label=aggregate-to-edit  selects=aggregate-to-view
"""
READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")

# The role, which is the binding's name too = its subjects.
BINDINGS = """
cluster-admin = Group system:masters
system:basic-user = Group system:authenticated
system:discovery = Group system:authenticated
system:kube-controller-manager = User system:kube-controller-manager
system:kube-dns = ServiceAccount kube-system/kube-dns
system:kube-scheduler = User system:kube-scheduler
system:monitoring = Group system:monitoring
system:node =
system:node-proxier = User system:kube-proxy
system:public-info-viewer = Group system:authenticated, Group system:unauthenticated
system:service-account-issuer-discovery = Group system:serviceaccounts
system:volume-scheduler = User system:kube-scheduler
"""


def _paragraphs() -> Iterator[tuple[str, list[str]]]:
    """The head of each role and its rules, a line each."""
    head, lines = "", list[str]()
    for line in ROLES.strip().splitlines():
        if not line.startswith(" "):
            if head:
                yield head, lines
            head, lines = line, []
        elif line.startswith("   "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line.strip())
    yield head, lines


def _rule(line: str) -> Rule:
    """
    >>> _rule("read | core apps | pods | web").groups
    ('', 'apps')
    """
    parts = [tuple(part.split()) for part in line.split("|")]
    short = {"read": READ, "write": WRITE}
    verbs = tuple(verb for word in parts[0] for verb in short.get(word, (word,)))
    if parts[1] == ("urls",):
        return Rule(verbs, urls=parts[2])
    groups = tuple("" if group == "core" else group for group in parts[1])
    return Rule(verbs, groups, parts[2], parts[3] if len(parts) > 3 else ())


def _object(kind: str, name: str, labels: dict[str, str] | None = None) -> Object:
    return {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": {
        "name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"} | (labels or {}),
        "annotations": {AUTOUPDATE: "true"}}}


def expected_roles() -> list[Object]:
    """The ClusterRoles; those that aggregate have their rules already."""
    objects, roles = list[Object](), list[Role]()
    for head, lines in _paragraphs():
        name, *more = head.split()
        words = dict(word.split("=") for word in more)
        labels = {AGGREGATE + words["label"]: "true"} if "label" in words else {}
        obj = _object("ClusterRole", name, labels)
        if "selects" in words:
            obj["aggregationRule"] = {"clusterRoleSelectors": [
                {"matchLabels": {AGGREGATE + words["selects"]: "true"}}]}
        obj["rules"] = [_rule(line).object() for line in lines]
        objects.append(obj)
        roles.append(role_of(obj))
    for obj, role in zip(objects, roles, strict=True):
        if role.selectors is not None:
            obj["rules"] = [rule.object() for rule in aggregated(role, roles)]
    return objects


def expected_bindings() -> list[Object]:
    """The ClusterRoleBindings."""
    objects = []
    for line in BINDINGS.strip().splitlines():
        name, said = map(str.strip, line.split("="))
        obj = _object("ClusterRoleBinding", name)
        obj["roleRef"] = {"apiGroup": GROUP, "kind": "ClusterRole", "name": name}
        subjects = [_subject(*word.split()) for word in said.split(", ") if word]
        objects.append(obj | ({"subjects": subjects} if subjects else {}))
    return objects


def _subject(kind: str, name: str) -> Object:
    if kind == "ServiceAccount":
        namespace, name = name.split("/")
        return {"kind": kind, "name": name, "namespace": namespace}
    return {"apiGroup": GROUP, "kind": kind, "name": name}


# --- what is to be written ------------------------------------------------------------------------

def reconciled(found: Object, expected: Object) -> Object | None:
    """The object as it should be; None if it is, or wants to be left alone."""
    metadata = found["metadata"]
    if (metadata.get("annotations") or {}).get(AUTOUPDATE) == "false":
        return None
    if found.get("roleRef") != expected.get("roleRef"):
        return expected                       # what it refers to cannot be changed: made anew
    want = found | {"metadata": dict(metadata)}
    for field in ("labels", "annotations"):
        want["metadata"][field] = expected["metadata"][field] | (metadata.get(field) or {})
    if "aggregationRule" in expected:
        selectors = list((found.get("aggregationRule") or {}).get("clusterRoleSelectors") or [])
        want["aggregationRule"] = {"clusterRoleSelectors": selectors + [
            s for s in expected["aggregationRule"]["clusterRoleSelectors"] if s not in selectors]}
    elif expected.get("rules") != found.get("rules"):
        missing = uncovered(role_of(found).rules, role_of(expected).rules)
        if missing:
            want["rules"] = (found.get("rules") or []) + [rule.object() for rule in missing]
    subjects = found.get("subjects") or []
    if missing_subjects := [s for s in expected.get("subjects", ()) if s not in subjects]:
        want["subjects"] = subjects + missing_subjects
    return want if want != found else None


async def bootstrap(api: Api) -> int:
    """All default roles and bindings, as far as they are missing, in one transaction.

    Returns: how many objects were written. Errors: the store's. Cost: one read of each kind and,
    if anything is missing, one transaction: 2 ms and a sync.
    """
    for _ in range(TRIES):
        conditions, writes = [], []
        for plural, objects in (("clusterroles", expected_roles()),
                                ("clusterrolebindings", expected_bindings())):
            resource = api.resources.of_path(GROUP, "v1", plural)
            assert resource is not None
            stored = {kv.key: kv for kv in api.store.range(prefix=api.layout.prefix(resource))}
            for expected in objects:
                key = api.layout.key(resource, "", expected["metadata"]["name"])
                there = stored.get(key)
                obj = expected if there is None else reconciled(object_of(there.value), expected)
                if obj is None:
                    continue
                metadata = obj["metadata"]
                metadata.setdefault("uid", new_uid())
                metadata.setdefault("creationTimestamp", rfc3339(api.now()))
                conditions.append(Compare.mod_revision(key) == (
                    there.mod_revision if there is not None else 0))
                writes.append(Put(key, api.codec.encode(obj)))
        if not writes:
            return 0
        done = await api.objects.submit(Txn(conditions, writes, []))
        if done.succeeded:
            await api.feed.reach(done.revision, mine=True)
            return len(writes)
    raise RuntimeError("the default roles are changed by somebody else all the time")
