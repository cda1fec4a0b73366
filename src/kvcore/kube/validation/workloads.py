# SPDX-License-Identifier: Apache-2.0
"""Deployments, replica sets, stateful sets, daemon sets, replication controllers, jobs, cron jobs.

Thread safety: none needed. Source: kubernetes pkg/apis/apps/validation, batch/validation.
May not know: requests.
"""

from __future__ import annotations

from typing import Any

from kvcore.kube.validation.cron import schedule_problem
from kvcore.kube.validation.errors import (
    Errors,
    Object,
    forbidden,
    invalid,
    invalid_each,
    not_supported,
    required,
)
from kvcore.kube.validation.metadata import IMMUTABLE, check_selector, immutable, selects
from kvcore.kube.validation.pods import check_template
from kvcore.kube.validation.rules import (
    MUST_BE_NONNEGATIVE,
    at_most_100_percent,
    dns_label,
    int_or_percent,
    nonnegative,
    number_of,
)
from kvcore.kube.validation.storage import check_claim_spec

__all__ = ["check_cron_job", "check_daemon_set", "check_deployment", "check_job",
           "check_replica_set", "check_replication_controller", "check_stateful_set"]

MISMATCH = "`selector` does not match template `labels`"


def _selector(errs: Errors, spec: Object, kind: str) -> None:
    """A selector that must be there and select something."""
    selector = spec.get("selector")
    if selector is None:
        required(errs, "spec.selector")
        return
    check_selector(errs, selector, "spec.selector")
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        invalid(errs, "spec.selector", selector, f"empty selector is invalid for {kind}")


def _labels(template: Object) -> Any:
    return template.get("metadata", {}).get("labels")


def _template(errs: Errors, spec: Object, owner: str, *, matched: bool = True) -> None:
    """A template whose labels the selector must match, of pods that run for ever."""
    template, selector = spec["template"], spec.get("selector")
    asked = matched and (selector or selector is None)      # an empty one selects everything
    if asked and selects(selector, _labels(template) or {}) is False:
        invalid(errs, "spec.template.metadata.labels", _labels(template), MISMATCH)
    check_template(errs, template, "spec.template")
    _always(errs, template["spec"], "spec.template.spec", owner)


def _always(errs: Errors, spec: Object, path: str, owner: str) -> None:
    if spec.get("restartPolicy") != "Always":
        not_supported(errs, f"{path}.restartPolicy", spec.get("restartPolicy", ""), ("Always",))
    if "activeDeadlineSeconds" in spec:
        forbidden(errs, f"{path}.activeDeadlineSeconds",
                  f"activeDeadlineSeconds in {owner} is not Supported")


# --- kinds ----------------------------------------------------------------------------------------

def check_deployment(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    nonnegative(errs, spec, "replicas", "spec")
    _selector(errs, spec, "deployment")
    _template(errs, spec, "ReplicaSet")
    strategy = spec["strategy"]
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    if kind == "Recreate":
        if rolling is not None:
            forbidden(errs, "spec.strategy.rollingUpdate",
                      "may not be specified when strategy `type` is 'Recreate'")
    elif kind == "RollingUpdate":
        _rolling_deployment(errs, rolling or {}, "spec.strategy.rollingUpdate")
    else:
        not_supported(errs, "spec.strategy", {"Type": kind, "RollingUpdate": rolling},
                      ("Recreate", "RollingUpdate"))
    nonnegative(errs, spec, "minReadySeconds", "spec")
    nonnegative(errs, spec, "revisionHistoryLimit", "spec")
    nonnegative(errs, spec, "progressDeadlineSeconds", "spec")
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and deadline <= spec.get("minReadySeconds", 0):
        invalid(errs, "spec.progressDeadlineSeconds", deadline,
                "must be greater than minReadySeconds")
    if old is not None:
        immutable(errs, spec.get("selector"), old["spec"].get("selector"), "spec.selector")


def _rolling_deployment(errs: Errors, rolling: Object, path: str) -> None:
    unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
    int_or_percent(errs, unavailable, f"{path}.maxUnavailable")
    int_or_percent(errs, surge, f"{path}.maxSurge")
    if number_of(unavailable) == 0 and number_of(surge) == 0:
        invalid(errs, f"{path}.maxUnavailable", unavailable,
                "may not be 0 when `maxSurge` is 0")
    at_most_100_percent(errs, unavailable, f"{path}.maxUnavailable")


def check_replica_set(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    nonnegative(errs, spec, "replicas", "spec")
    nonnegative(errs, spec, "minReadySeconds", "spec")
    _selector(errs, spec, "deployment")
    _template(errs, spec, "ReplicaSet")
    if old is not None:
        immutable(errs, spec.get("selector"), old["spec"].get("selector"), "spec.selector")


def check_replication_controller(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    nonnegative(errs, spec, "minReadySeconds", "spec")
    selector = spec.get("selector")
    if not selector:
        required(errs, "spec.selector")
    nonnegative(errs, spec, "replicas", "spec")
    template = spec.get("template")
    if template is None:
        required(errs, "spec.template")
        return
    labels = _labels(template)
    if selector and any((labels or {}).get(key) != value for key, value in selector.items()):
        invalid(errs, "spec.template.metadata.labels", labels, MISMATCH)
    check_template(errs, template, "spec.template")
    _always(errs, template["spec"], "spec.template.spec", "ReplicationController")


def check_daemon_set(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    selector, template = spec.get("selector"), spec["template"]
    check_selector(errs, selector, "spec.selector")
    if selects(selector, _labels(template) or {}) is False:
        invalid(errs, "spec.template.metadata.labels", _labels(template), MISMATCH)
    if selector is not None and not selector.get("matchLabels") \
            and not selector.get("matchExpressions"):
        invalid(errs, "spec.selector", selector, "empty selector is invalid for daemonset")
    _template(errs, spec, "DaemonSet", matched=False)
    nonnegative(errs, spec, "minReadySeconds", "spec")
    strategy, path = spec["updateStrategy"], "spec.updateStrategy"
    if strategy.get("type") == "RollingUpdate":
        rolling = strategy.get("rollingUpdate") or {}
        unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
        for key, value in (("maxUnavailable", unavailable), ("maxSurge", surge)):
            int_or_percent(errs, value, f"{path}.rollingUpdate.{key}")
        for key, value in (("maxUnavailable", unavailable), ("maxSurge", surge)):
            at_most_100_percent(errs, value, f"{path}.rollingUpdate.{key}")
        if number_of(unavailable) and number_of(surge):
            invalid(errs, f"{path}.rollingUpdate.maxSurge", surge,
                    "may not be set when maxUnavailable is non-zero")
        elif not number_of(unavailable) and not number_of(surge):
            required(errs, f"{path}.rollingUpdate.maxUnavailable",
                     "cannot be 0 when maxSurge is 0")
    elif strategy.get("type") != "OnDelete":
        not_supported(errs, path, {"Type": strategy.get("type"),
                                   "RollingUpdate": strategy.get("rollingUpdate")},
                      ("RollingUpdate", "OnDelete"))
    nonnegative(errs, spec, "revisionHistoryLimit", "spec")
    if old is not None:
        immutable(errs, selector, old["spec"].get("selector"), "spec.selector")


SET_MAY_CHANGE = ("replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
                  "persistentVolumeClaimRetentionPolicy", "minReadySeconds")
SET_FORBIDDEN = ("updates to statefulset spec for fields other than 'replicas', 'ordinals', "
                 "'template', 'updateStrategy', 'revisionHistoryLimit', "
                 "'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")
RETENTION = ("Retain", "Delete")


def check_stateful_set(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    policy = spec.get("podManagementPolicy")
    if policy not in ("OrderedReady", "Parallel"):
        invalid(errs, "spec.podManagementPolicy", policy,
                "must be 'OrderedReady' or 'Parallel'")
    _set_strategy(errs, spec["updateStrategy"])
    for key, value in spec.get("persistentVolumeClaimRetentionPolicy", {}).items():
        if value not in RETENTION:
            not_supported(errs, f"spec.persistentVolumeClaimRetentionPolicy.{key}", value,
                          RETENTION)
    claims = spec.get("volumeClaimTemplates", ())
    for i, claim in enumerate(claims):
        check_claim_spec(errs, claim.get("spec", {}), f"spec.volumeClaimTemplates[{i}].spec")
    nonnegative(errs, spec, "replicas", "spec")
    nonnegative(errs, spec, "minReadySeconds", "spec")
    nonnegative(errs, spec.get("ordinals", {}), "start", "spec.ordinals")
    if spec.get("serviceName"):
        invalid_each(errs, "spec.serviceName", spec["serviceName"], dns_label(spec["serviceName"]))
    _selector(errs, spec, "statefulset")
    _template(errs, _with_claims(spec, claims), "StatefulSet")
    nonnegative(errs, spec, "revisionHistoryLimit", "spec")
    if old is not None:
        def fixed(spec: Object) -> Object:
            return {key: value for key, value in spec.items() if key not in SET_MAY_CHANGE}
        if fixed(spec) != fixed(old["spec"]):
            forbidden(errs, "spec", SET_FORBIDDEN)


def _set_strategy(errs: Errors, strategy: Object) -> None:
    path, rolling = "spec.updateStrategy", strategy.get("rollingUpdate")
    kind = strategy.get("type")
    if kind == "OnDelete":
        if rolling is not None:
            invalid(errs, f"{path}.rollingUpdate", rolling,
                    "only allowed for updateStrategy 'RollingUpdate'")
    elif kind == "RollingUpdate":
        if rolling is not None:
            nonnegative(errs, rolling, "partition", f"{path}.rollingUpdate")
            if "maxUnavailable" in rolling:
                value = rolling["maxUnavailable"]
                int_or_percent(errs, value, f"{path}.rollingUpdate.maxUnavailable")
                if number_of(value) == 0:
                    invalid(errs, f"{path}.rollingUpdate.maxUnavailable", value, "cannot be 0")
                at_most_100_percent(errs, value, f"{path}.rollingUpdate.maxUnavailable")
    else:
        invalid(errs, path, {"Type": kind, "RollingUpdate": rolling},
                "must be 'RollingUpdate' or 'OnDelete'")


def _with_claims(spec: Object, claims: Any) -> Object:
    """The spec with the volumes that the set adds to its pods, which containers may mount."""
    if not claims:
        return spec
    added = {claim.get("metadata", {}).get("name", ""): claim for claim in claims}
    template = spec["template"]
    volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}}
               for name in added]
    kept = [v for v in template["spec"].get("volumes", ()) if v.get("name") not in added]
    return {**spec, "template": {**template,
                                 "spec": {**template["spec"], "volumes": volumes + kept}}}


# --- jobs -----------------------------------------------------------------------------------------

COMPLETION = ("NonIndexed", "Indexed")
INDEXED_MAX = 100_000


def check_job(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    if not spec.get("manualSelector") and old is None:
        _generated(errs, obj)
    _job_spec(errs, spec, "spec")
    selector = spec.get("selector")
    if selector is None:
        required(errs, "spec.selector")
    else:
        check_selector(errs, selector, "spec.selector")
        if selects(selector, _labels(spec["template"]) or {}) is False:
            invalid(errs, "spec.template.metadata.labels", _labels(spec["template"]), MISMATCH)
    if old is not None:
        _job_update(errs, spec, old["spec"])


def _generated(errs: Errors, obj: Object) -> None:
    """Labels that the server gives out itself must be its own."""
    meta, labels = obj["metadata"], _labels(obj["spec"]["template"]) or {}
    uid, name = meta.get("uid", ""), meta.get("name", "")
    for label, wanted in (("controller-uid", uid), ("batch.kubernetes.io/controller-uid", uid),
                          ("job-name", name), ("batch.kubernetes.io/job-name", name)):
        if labels.get(label) != wanted:
            invalid(errs, "spec.template.metadata.labels", labels, f"must be '{wanted}'")


def _job_spec(errs: Errors, spec: Object, path: str) -> None:
    for key in ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit",
                "ttlSecondsAfterFinished", "backoffLimitPerIndex", "maxFailedIndexes"):
        nonnegative(errs, spec, key, path)
    if "maxFailedIndexes" in spec and "backoffLimitPerIndex" not in spec:
        required(errs, f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified")
    mode = spec.get("completionMode")
    if mode is not None and mode not in COMPLETION:
        not_supported(errs, f"{path}.completionMode", mode, COMPLETION)
    if mode == "Indexed":
        if "completions" not in spec:
            required(errs, f"{path}.completions", "when completion mode is Indexed")
        if spec.get("parallelism", 0) > INDEXED_MAX:
            invalid(errs, f"{path}.parallelism", spec["parallelism"], "must be less than or equal "
                    f"to {INDEXED_MAX} when completion mode is Indexed")
    elif mode in (None, "NonIndexed"):
        for key in ("backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"):
            if key in spec:
                invalid(errs, f"{path}.{key}", spec[key], "requires indexed completion mode")
    check_template(errs, spec["template"], f"{path}.template")
    restart, here = spec["template"]["spec"].get("restartPolicy"), f"{path}.template.spec"
    if restart in (None, "", "Always"):
        required(errs, f"{here}.restartPolicy", 'valid values: "OnFailure", "Never"')
    elif restart not in ("OnFailure", "Never"):
        not_supported(errs, f"{here}.restartPolicy", restart, ("OnFailure", "Never"))
    elif "podFailurePolicy" in spec and restart != "Never":
        invalid(errs, f"{here}.restartPolicy", restart,
                'only "Never" is supported when podFailurePolicy is specified')


def _job_update(errs: Errors, spec: Object, old: Object) -> None:
    if spec.get("completions") != old.get("completions"):
        changes_both = spec.get("completionMode") == "Indexed" \
            and spec.get("completions") == spec.get("parallelism")
        if not changes_both:
            invalid(errs, "spec.completions", spec.get("completions"), IMMUTABLE)
    immutable(errs, spec.get("selector"), old.get("selector"), "spec.selector")
    if not old.get("suspend") and spec["template"] != old["template"]:
        invalid(errs, "spec.template", spec["template"], IMMUTABLE)
    for key in ("completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy",
                "successPolicy"):
        immutable(errs, spec.get(key), old.get(key), f"spec.{key}")


CONCURRENCY = ("Allow", "Forbid", "Replace")


def check_revision(errs: Errors, obj: Object, old: Object | None = None) -> None:
    """A ControllerRevision."""
    data = obj.get("data")
    if (obj.get("revision") or 0) < 0:
        invalid(errs, "revision", obj["revision"], MUST_BE_NONNEGATIVE)
    if old is not None:
        immutable(errs, data, old.get("data"), "data")
    elif data is None:
        required(errs, "data", "data is mandatory")
    elif not isinstance(data, dict):
        required(errs, "data", "data must be a valid JSON object")


def check_cron_job(errs: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    schedule = spec.get("schedule")
    if not schedule:
        required(errs, "spec.schedule")
    else:
        problem = schedule_problem(schedule)
        if problem:
            invalid(errs, "spec.schedule", schedule, problem)
        if "TZ" in schedule:
            invalid(errs, "spec.schedule", schedule, "cannot use TZ or CRON_TZ in schedule, use "
                    "timeZone field instead")
    nonnegative(errs, spec, "startingDeadlineSeconds", "spec")
    policy = spec.get("concurrencyPolicy", "")
    if policy not in CONCURRENCY:
        not_supported(errs, "spec.concurrencyPolicy", policy, CONCURRENCY)
    template = spec["jobTemplate"].get("spec", {})
    _job_spec(errs, template, "spec.jobTemplate.spec")
    if template.get("manualSelector"):
        not_supported(errs, "spec.jobTemplate.spec.manualSelector", True, ("nil", "false"))
    nonnegative(errs, spec, "successfulJobsHistoryLimit", "spec")
    nonnegative(errs, spec, "failedJobsHistoryLimit", "spec")
    name = obj["metadata"].get("name", "")
    if old is None and len(name) > 52:
        invalid(errs, "metadata.name", name, "must be no more than 52 characters")
