# SPDX-License-Identifier: Apache-2.0
"""Who asks: client certificate, bearer token, anonymous; the first that knows.

    certificate   CN is the user, each O a group                     (TLS has verified the chain)
    bearer token  of the token file, or of a service account (tokens.py)
    nobody        system:anonymous, where that is allowed; else 401

A token that nobody believes is 401, also where anonymous is allowed; a header that carries no
bearer token is as no header. With a good certificate the token is not looked at. Everybody known
is also in system:authenticated.
`api.authenticate` is an Authenticator. What a request says of impersonation is done on top of it
(impersonation.py), before anybody asks what the user may do.

Thread safety: one event loop. Source: apiserver authentication/request (x509, bearertoken, union,
anonymous), authentication/token/tokenfile. May not know: the store.
"""

from __future__ import annotations

import csv
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, ObjectIdentifier

from kvcore.kube import status
from kvcore.kube.authorization import Authorizer
from kvcore.kube.impersonation import impersonated
from kvcore.kube.request import ANONYMOUS, Request, User
from kvcore.kube.tokens import CREDENTIAL, ISSUER, Refused, ServiceAccountTokens

__all__ = ["Authenticator", "bearer_token", "certificate_user", "read_token_file"]

AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"
MOST_CERTIFICATES = 4096
UNKNOWN = "invalid bearer token"
UID = ObjectIdentifier("1.3.6.1.4.1.57683.2")          # a user's uid in a certificate's subject


class Certificate(NamedTuple):
    """What a client certificate says; user None: it names nobody."""

    user: User | None
    not_before: float
    not_after: float


class Authenticator:
    """See the module.

    Args: tokens: those of the token file; accounts: None: no service account tokens; authorizer:
    who decides on impersonation; audiences: of this server; now: seconds since 1970.
    """

    def __init__(self, authorizer: Authorizer, *, tokens: Mapping[str, User] | None = None,
                 accounts: ServiceAccountTokens | None = None, anonymous: bool = True,
                 audiences: Sequence[str] = (ISSUER,),
                 now: Callable[[], float] = time.time) -> None:
        self.tokens = {token: known(user) for token, user in (tokens or {}).items()}
        self.accounts, self.anonymous, self.audiences = accounts, anonymous, tuple(audiences)
        self._authorizer, self._now = authorizer, now
        self._certificates: dict[bytes, Certificate] = {}

    def __call__(self, request: Request) -> User:
        """Errors: ApiError 401; 400 and 403 of impersonation. Cost: a certificate or token seen
        before: 1 to 3 us."""
        user = self._user(request)
        for name in request.headers:
            if name.startswith("impersonate-"):
                try:
                    return impersonated(user, request.headers, self._authorizer)
                except status.ApiError as error:
                    error.user = user
                    raise
        return user

    def _user(self, request: Request) -> User:
        refused = False
        if request.certificate is not None:
            found = self._certificate(request.certificate)
            if not found.not_before <= self._now() <= found.not_after:
                refused = True                # TLS looked at it only when the connection began
            elif found.user is not None:
                return found.user
        header = request.headers.get("authorization")
        token = bearer_token(header) if header else ""
        if token:
            try:
                return self.token(token)[0]
            except Refused:
                refused = True
        if refused or not self.anonymous:
            raise status.unauthorized()
        return ANONYMOUS

    def token(self, token: str, audiences: Sequence[str] = ()) -> tuple[User, tuple[str, ...]]:
        """Who a token is of, and for which of the audiences; "" of them: this server's.
        Errors: Refused."""
        user = self.tokens.get(token)
        if user is not None:
            wanted = tuple(a for a in self.audiences if a in (audiences or self.audiences))
            if wanted:
                return user, wanted
        elif self.accounts is not None:
            verified = self.accounts.verify(token, audiences)
            if verified is not None:
                return verified
        raise Refused(UNKNOWN)

    # --- certificates ---------------------------------------------------------------------------

    def _certificate(self, der: bytes) -> Certificate:
        found = self._certificates.get(der)
        if found is None:
            if len(self._certificates) >= MOST_CERTIFICATES:
                del self._certificates[next(iter(self._certificates))]
            found = self._certificates[der] = certificate_user(der)
        return found


def certificate_user(der: bytes) -> Certificate:
    """The user of a client certificate: the last CN, all O in order, both as written. A
    certificate that is not for clients, or cannot be read, is valid at no time."""
    try:
        read = x509.load_der_x509_certificate(der)
        subject = read.subject
        names = [str(n.value) for n in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        groups = [str(n.value) for n in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
        uids = [str(n.value) for n in subject.get_attributes_for_oid(UID)]
        for_clients = _for_clients(read)
    except ValueError:
        return Certificate(None, 1.0, 0.0)
    if not for_clients or len(uids) > 1:
        return Certificate(None, 1.0, 0.0)
    user = None
    if names and names[-1]:
        fingerprint = hashlib.sha256(der).hexdigest()
        user = known(User(names[-1], tuple(groups), uids[0] if uids else "",
                          {CREDENTIAL: (f"X509SHA256={fingerprint}",)}))
    return Certificate(user, read.not_valid_before_utc.timestamp(),
                       read.not_valid_after_utc.timestamp())


def _for_clients(read: x509.Certificate) -> bool:
    """Whether its extended key usage, if it has any, allows client authentication."""
    try:
        found = read.extensions.get_extension_for_oid(ExtensionOID.EXTENDED_KEY_USAGE)
    except x509.ExtensionNotFound:
        return True
    usage = found.value
    assert isinstance(usage, x509.ExtendedKeyUsage)
    return (ExtendedKeyUsageOID.CLIENT_AUTH in usage
            or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage)


# --- tokens ---------------------------------------------------------------------------------------

def bearer_token(header: str) -> str:
    """The token of an Authorization header; "" where it carries none. Of a header sent twice the
    first counts.

    >>> bearer_token("bearer  x"), bearer_token("Bearer abc def"), bearer_token("Basic abc")
    ('', 'abc', '')
    """
    parts = header.partition("\n")[0].strip().split(" ", 2)
    return parts[1] if len(parts) > 1 and parts[0].lower() == "bearer" else ""


def read_token_file(path: Path) -> dict[str, User]:
    """Users by token, of a file of lines `token,user,uid,"group1,group2"`; the groups may be
    missing. Of a token that stands twice the last line counts. Errors: OSError; ValueError: a line
    of fewer than three columns."""
    users: dict[str, User] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for record in csv.reader(file):
            if not record:
                continue
            if len(record) < 3:
                raise ValueError(f"token file '{path}' must have at least 3 columns (token, user "
                                 f"name, user uid), found {len(record)}")
            token, name, uid = record[:3]
            if token:
                groups = tuple(record[3].split(",")) if len(record) > 3 else ()
                users[token] = User(name, groups, uid)
    return users


def known(user: User) -> User:
    """With system:authenticated, unless it is said already whether it is."""
    if user.name == ANONYMOUS.name or AUTHENTICATED in user.groups \
            or UNAUTHENTICATED in user.groups:
        return user
    return User(user.name, (*user.groups, AUTHENTICATED), user.uid, user.extra)
