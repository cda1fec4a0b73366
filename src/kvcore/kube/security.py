# SPDX-License-Identifier: Apache-2.0
"""Authentication and authorisation of one server, from its options.

    secure(api, authorization_mode=["RBAC"], token_auth_file=..., service_account_key=...)
        ├─> api.authenticate   certificate, token, anonymous       authentication.py
        ├─> api.authorize      RBAC over what is stored            authorization.py, rbac.py
        └─> api.security       tokens, for the reviews             tokens.py, reviews.py

Options have the names and meaning of kube-apiserver's flags. Needs cryptography and PyJWT; nothing
that a server in process without it imports does. Thread safety: one event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvcore.kube.authentication import UNKNOWN, Authenticator, read_token_file
from kvcore.kube.authorization import MODES, Authorizer, policy_of
from kvcore.kube.call import Object
from kvcore.kube.entry import Entry
from kvcore.kube.request import Answer, User
from kvcore.kube.tokens import ISSUER, JWKS_PATH, Look, Refused, ServiceAccountTokens

if TYPE_CHECKING:
    from kvcore.kube.api import Api

__all__ = ["MODES", "Security", "secure"]


@dataclass(frozen=True, slots=True)
class Security:
    """What `secure` put together; reviews ask it for tokens."""

    authenticator: Authenticator
    authorizer: Authorizer
    accounts: ServiceAccountTokens | None
    audiences: tuple[str, ...]

    def published(self, path: str, url: str) -> Answer | None:
        """The issuer's keys, and where they are, for those who verify its tokens themselves; None:
        another path. As upstream, nothing is published of an issuer that is no https URL."""
        issuer = self.accounts.issuer if self.accounts is not None else ""
        if self.accounts is None or not issuer.startswith("https://") or set("?#") & set(issuer):
            return None
        path = path.removesuffix("/")
        if path == JWKS_PATH:
            answer = Answer(200, self.accounts.jwks(), "application/jwk-set+json")
        elif path == "/.well-known/openid-configuration":
            answer = Answer(200, self.accounts.discovery(url))
        else:
            return None
        answer.headers["Cache-Control"] = "public, max-age=3600"
        return answer

    @property
    def signs(self) -> bool:
        return self.accounts is not None

    def sign(self, account: Object, seconds: int, audiences: Sequence[str],
             bound: dict[str, Object]) -> tuple[str, float]:
        """See ServiceAccountTokens.sign."""
        assert self.accounts is not None
        return self.accounts.sign(account, seconds, audiences, bound)

    def review(self, token: str, audiences: Sequence[str]
               ) -> tuple[User | None, tuple[str, ...], str]:
        """Whose a token is and for which audiences, or why it is nobody's."""
        try:
            user, wanted = self.authenticator.token(token, audiences)
        except Refused as error:
            said = str(error)                 # upstream tells what each reader of tokens said
            return None, (), said if said == UNKNOWN else f"[{UNKNOWN}, {said}]"
        return user, wanted, ""


def secure(api: Api, *, authorization_mode: Sequence[str] = ("RBAC",), anonymous_auth: bool = True,
           token_auth_file: Path | None = None, service_account_key: Sequence[bytes] = (),
           service_account_issuer: str = ISSUER, api_audiences: Sequence[str] = ()) -> Security:
    """Sets `api.authenticate`, `api.authorize` and `api.security`.

    Args: authorization_mode: of MODES, in order; service_account_key: PEM, the first signs, all
    verify (`tokens.key_at` makes and keeps one); none: no service account tokens. As upstream,
    nobody is anonymous where everything is allowed.
    Errors: ValueError: an option's; OSError: the token file's.
    """
    authorizer = Authorizer(authorization_mode, policy_of(api.feed, api.resources))
    audiences = tuple(api_audiences) or (service_account_issuer,)
    accounts = None
    if service_account_key:
        accounts = ServiceAccountTokens(
            service_account_key, _look(api), issuer=service_account_issuer, audiences=audiences,
            now=api.now)
    authenticator = Authenticator(
        authorizer, tokens=read_token_file(token_auth_file) if token_auth_file else None,
        accounts=accounts, anonymous=anonymous_auth and "AlwaysAllow" not in authorization_mode,
        audiences=audiences, now=api.now)
    api.authenticate, api.authorize = authenticator, authorizer
    security = api.security = Security(authenticator, authorizer, accounts, audiences)
    return security


def _look(api: Api) -> Look:
    """Objects of core kinds, from the watch cache or surely."""
    def look(plural: str, namespace: str, name: str, surely: bool) -> Entry | None:
        resource = api.resources.of_path("", "v1", plural)
        assert resource is not None
        key = api.layout.key(resource, namespace, name)
        if not surely:
            return api.feed.cacher(resource).state.get(key)
        found = api.store.get(key)
        return Entry(key, found.mod_revision, found.value, resource.kind) if found else None

    return look
