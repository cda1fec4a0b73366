# SPDX-License-Identifier: Apache-2.0
"""The file of --admission-control-config-file, read strictly.

    AdmissionConfiguration (apiserver.config.k8s.io/v1)
      plugins: [{name, configuration: {...}}, {name, path: file}]
          └─> {name: (configuration, where it stands)}
    PodSecurity                 PodSecurityConfiguration (pod-security.admission.config.k8s.io/v1)
    ResourceQuota               ResourceQuotaConfiguration (apiserver.config.k8s.io/v1)
    *AdmissionWebhook           WebhookAdmissionConfiguration (apiserver.config.k8s.io/v1)

Whatever is not known is refused with its file and field; nothing is ignored. Thread safety: none
needed. Source: apiserver apis/apiserver/v1, pod-security-admission admission/api,
apiserver admission/plugin/resourcequota/apis.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import yaml

from kvcore.kube import meta
from kvcore.kube.admission.podsecurity import (
    Exemptions,
    Policy,
    Standard,
    parse_level,
    parse_version,
)
from kvcore.kube.admission.quota import Limited

__all__ = ["limited_resources", "pod_security", "read", "refuse_any", "webhooks"]

Found = dict[str, tuple[dict[str, Any], str]]

APISERVER = "apiserver.config.k8s.io/v1"
POD_SECURITY = "pod-security.admission.config.k8s.io/v1"


def read(source: str | os.PathLike[str] | dict[str, Any] | None,
         known: Container[str]) -> Found:
    """Configurations by plugin's name. Errors: ValueError, OSError."""
    if source is None:
        return {}
    if isinstance(source, dict):
        where, base, document = "AdmissionConfiguration", Path(), source
    else:
        where, base = os.fspath(source), Path(source).parent
        document = _load(where)
    _typed(document, where, APISERVER, "AdmissionConfiguration")
    _fields(document, where, "", ("plugins",))
    found: Found = {}
    for i, each in enumerate(_list(document, where, "", "plugins")):
        field = f"plugins[{i}]"
        _fields(_object(each, where, field), where, field, ("name", "path", "configuration"))
        name = each.get("name")
        if not isinstance(name, str) or name not in known:
            raise ValueError(f'{where}: {field}.name: unknown admission plugin "{name}"')
        if name in found:
            raise ValueError(f'{where}: {field}.name: Duplicate value: "{name}"')
        if each.get("configuration") is not None:
            found[name] = (_object(each["configuration"], where, f"{field}.configuration"),
                           f"{where}: {field}.configuration")
        elif each.get("path"):
            path = os.fspath(base / each["path"])
            found[name] = _load(path), path
    return found


def _load(path: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(Path(path).read_bytes())
    except OSError as error:
        raise OSError(f'unable to read admission control configuration from "{path}" '
                      f"[{error.strerror or error}]") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    return _object(document, path, "")


# --- strictness ----------------------------------------------------------------------------------

def _at(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _object(value: Any, where: str, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {field or 'the document'} must be an object")
    return value


def _fields(value: dict[str, Any], where: str, field: str, known: tuple[str, ...]) -> None:
    allowed = known if field else (*known, "apiVersion", "kind")
    for name in value:
        if name not in allowed:
            raise ValueError(f'{where}: strict decoding error: unknown field "{_at(field, name)}"')


def _list(value: dict[str, Any], where: str, field: str, name: str) -> list[Any]:
    found = value.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"{where}: {_at(field, name)} must be a list")
    return found


def _texts(value: dict[str, Any], where: str, field: str, name: str) -> list[str]:
    found = _list(value, where, field, name)
    for i, each in enumerate(found):
        if not isinstance(each, str):
            raise ValueError(f"{where}: {_at(field, name)}[{i}] must be a string")
    return found


def _typed(value: dict[str, Any], where: str, version: str, kind: str) -> None:
    said = value.get("apiVersion"), value.get("kind")
    if said != (version, kind):
        raise ValueError(f'{where}: no kind "{said[1] or ""}" is registered for version '
                         f'"{said[0] or ""}"; {version}, Kind={kind} is what belongs here')


def refuse_any(own: Mapping[str, Any], where: str) -> None:
    """For plugins that take no configuration. Errors: ValueError."""
    if own:
        raise ValueError(f"{where}: this plugin takes no configuration")


# --- each plugin's -------------------------------------------------------------------------------

def pod_security(own: dict[str, Any], where: str) -> tuple[Policy, Exemptions]:
    """Errors: ValueError with everything that is wrong with values."""
    if not own:
        return Policy(), Exemptions()
    _typed(own, where, POD_SECURITY, "PodSecurityConfiguration")
    _fields(own, where, "", ("defaults", "exemptions"))
    defaults = _object(own.get("defaults") or {}, where, "defaults")
    modes = ("enforce", "audit", "warn")
    _fields(defaults, where, "defaults", (*modes, *(f"{mode}-version" for mode in modes)))
    wrong: list[str] = []
    read: dict[str, Standard] = {}
    for mode in modes:
        level, version = defaults.get(mode) or "privileged", \
            defaults.get(f"{mode}-version") or "latest"
        parts: list[Any] = []
        for field, text, parse in ((mode, level, parse_level),
                                   (f"{mode}-version", version, parse_version)):
            try:
                parts.append(parse(str(text)))
            except ValueError as error:
                wrong.append(f'defaults.{field}: Invalid value: "{text}": {error}')
        if len(parts) == 2:
            read[mode] = Standard(*parts)
    exempt = _object(own.get("exemptions") or {}, where, "exemptions")
    _fields(exempt, where, "exemptions", ("usernames", "namespaces", "runtimeClasses"))
    lists = {name: _texts(exempt, where, "exemptions", name)
             for name in ("namespaces", "runtimeClasses", "usernames")}
    for name, values in lists.items():
        wrong += _exemptions(name, values)
    if wrong:
        said = wrong[0] if len(wrong) == 1 else f"[{', '.join(wrong)}]"
        raise ValueError(f"{where}: {said}")
    return Policy(**read), Exemptions(frozenset(lists["usernames"]),
                                      frozenset(lists["namespaces"]),
                                      frozenset(lists["runtimeClasses"]))


def _exemptions(name: str, values: list[str]) -> list[str]:
    wrong, seen = [], set[str]()
    for i, value in enumerate(values):
        field = f"exemptions.{name}[{i}]"
        if name == "usernames":
            problem = None if value else "username must not be empty"
        else:
            problem = meta.name_problem(value, "label" if name == "namespaces" else "subdomain")
        if problem:
            wrong.append(f'{field}: Invalid value: "{value}": {problem}')
        elif value in seen:
            wrong.append(f'{field}: Duplicate value: "{value}"')
        seen.add(value)
    return wrong


def limited_resources(own: dict[str, Any], where: str) -> tuple[Limited, ...]:
    """Errors: ValueError."""
    if not own:
        return ()
    _typed(own, where, APISERVER, "ResourceQuotaConfiguration")
    _fields(own, where, "", ("limitedResources",))
    found = []
    for i, each in enumerate(_list(own, where, "", "limitedResources")):
        field = f"limitedResources[{i}]"
        each = _object(each, where, field)
        _fields(each, where, field, ("apiGroup", "resource", "matchContains", "matchScopes"))
        if not each.get("resource"):
            raise ValueError(f"{where}: {field}.resource: Required value")
        scopes = _list(each, where, field, "matchScopes")
        for j, scope in enumerate(scopes):
            at = f"{field}.matchScopes[{j}]"
            _fields(_object(scope, where, at), where, at, ("scopeName", "operator", "values"))
        found.append(Limited(each.get("apiGroup") or "", each["resource"],
                             tuple(_texts(each, where, field, "matchContains")), tuple(scopes)))
    return tuple(found)


def webhooks(own: dict[str, Any], where: str) -> None:
    """Credentials for webhooks are not known here. Errors: ValueError."""
    if not own:
        return
    _typed(own, where, APISERVER, "WebhookAdmissionConfiguration")
    _fields(own, where, "", ("kubeConfigFile",))
    if own.get("kubeConfigFile"):
        raise ValueError(f"{where}: kubeConfigFile: kvcore has no credentials for webhooks")
