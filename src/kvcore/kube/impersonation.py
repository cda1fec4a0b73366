# SPDX-License-Identifier: Apache-2.0
"""Acting as somebody else: the Impersonate-* headers, each allowed by the verb `impersonate`.

    Impersonate-User         users, or serviceaccounts of a namespace
    Impersonate-Group        groups                                      (may be sent several times)
    Impersonate-Extra-<key>  userextras/<key> of authentication.k8s.io   (may be sent several times)
    Impersonate-Uid          uids of authentication.k8s.io

A transport joins the values of a header that came several times with a newline, which no value can
hold. Thread safety: none needed. Source: apiserver endpoints/filters/impersonation; the constrained
impersonation of newer versions is not known here. May not know: HTTP, the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from kvcore.kube import status
from kvcore.kube.authorization import Authorizer
from kvcore.kube.meta import name_problem
from kvcore.kube.rbac import SERVICE_ACCOUNT, quoted
from kvcore.kube.request import ANONYMOUS, Target, User

__all__ = ["impersonated", "split_account"]

EXTRA = "impersonate-extra-"
AUTHENTICATION = "authentication.k8s.io"
AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"


def impersonated(user: User, headers: Mapping[str, str], authorizer: Authorizer) -> User:
    """The user that a request wants to be seen as.

    Errors: ApiError 403: one of the parts is not allowed; 400: no user is named.
    """
    name = headers.get("impersonate-user", "").partition("\n")[0]
    uid = headers.get("impersonate-uid", "").partition("\n")[0]
    groups = _values(headers, "impersonate-group")
    extra: dict[str, tuple[str, ...]] = {}
    for header in sorted(headers):
        if header.startswith(EXTRA):
            key = unquote(header[len(EXTRA):])
            extra[key] = extra.get(key, ()) + _values(headers, header)
    if not name:
        if not (uid or groups or extra):
            return user
        raise status.bad_request(f"requested {_go_user(uid, groups, extra)} without impersonating "
                                 "a user name")
    account = split_account(name)
    for target in _targets(name, account, uid, groups, extra):
        authorizer(user, target)
    if account and not groups:
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{account[0]}")
    if name == ANONYMOUS.name:
        if UNAUTHENTICATED not in groups:
            groups += (UNAUTHENTICATED,)
    elif AUTHENTICATED not in groups and UNAUTHENTICATED not in groups:
        groups += (AUTHENTICATED,)
    return User(name, groups, uid, extra, user)


def _values(headers: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(headers[name].split("\n")) if name in headers else ()


def _targets(name: str, account: tuple[str, str] | None, uid: str, groups: tuple[str, ...],
             extra: dict[str, tuple[str, ...]]) -> list[Target]:
    """What is to be allowed, in upstream's order."""
    def asked(group: str, resource: str, name: str, sub: str = "", namespace: str = "") -> Target:
        version = "v1" if group or resource == "serviceaccounts" else ""
        return Target("impersonate", "", "apis" if group else "api", group, version, resource,
                      sub, namespace, name)

    if account:
        targets = [asked("", "serviceaccounts", account[1], namespace=account[0])]
    else:
        targets = [asked("", "users", name)]
    targets += [asked("", "groups", group) for group in groups]
    targets += [asked(AUTHENTICATION, "userextras", value, key)
                for key, values in extra.items() for value in values]
    if uid:
        targets.append(asked(AUTHENTICATION, "uids", uid))
    return targets


def split_account(name: str) -> tuple[str, str] | None:
    """Namespace and name of a service account's user name.

    >>> split_account("system:serviceaccount:default:builder"), split_account("bob")
    (('default', 'builder'), None)
    """
    if not name.startswith(SERVICE_ACCOUNT):
        return None
    parts = name[len(SERVICE_ACCOUNT):].split(":")
    if len(parts) != 2 or name_problem(parts[0], "label") or name_problem(parts[1], "subdomain"):
        return None
    return parts[0], parts[1]


def _go_user(uid: str, groups: tuple[str, ...], extra: dict[str, tuple[str, ...]]) -> str:
    """A user.DefaultInfo as Go prints it."""
    def strings(values: tuple[str, ...]) -> str:
        return f"[]string{{{', '.join(map(quoted, values))}}}" if values else "[]string(nil)"

    said = ", ".join(f"{quoted(key)}:{strings(values)}" for key, values in sorted(extra.items()))
    more = f"map[string][]string{{{said}}}" if extra else "map[string][]string(nil)"
    return (f'&user.DefaultInfo{{Name:"", UID:{quoted(uid)}, Groups:{strings(groups)}, '
            f"Extra:{more}}}")
