# SPDX-License-Identifier: Apache-2.0
"""One request on its way through the server: what every stage reads and what it leaves behind.

    Call(api, request, target) ── stages fill in: user, resource, object, key, encoded, revision

A stage is a function of one Call; it returns None, or something to be awaited. Refusals are
ApiErrors. Thread safety: a Call belongs to one task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kvcore.kube import status
from kvcore.kube.request import ANONYMOUS, Request, Target, User, is_true
from kvcore.kube.resources import Resource

if TYPE_CHECKING:
    from kvcore.kube.admission.chain import Review
    from kvcore.kube.api import Api

__all__ = ["Call", "Object", "Operation", "Options"]

Object = dict[str, Any]
Operation = Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]


@dataclass(slots=True)
class Options:
    """What the query says of a write: dryRun, fieldValidation, fieldManager."""

    dry_run: bool = False
    field_validation: str = "Warn"          # Ignore | Warn | Strict; upstream's default is Warn
    field_manager: str = ""

    @classmethod
    def of(cls, query: dict[str, str]) -> Options:
        if not query:
            return cls()
        dry_run = query.get("dryRun", "")
        if dry_run not in ("", "All"):
            raise status.bad_request(f'Invalid value: []string{{"{dry_run}"}}: dryRun: '
                                     f'Unsupported value: "{dry_run}": supported values: "All"')
        validation = query.get("fieldValidation", "") or "Warn"
        if validation not in ("Ignore", "Warn", "Strict"):
            raise status.bad_request(
                f'fieldValidation: Unsupported value: "{validation}": supported values: '
                '"Ignore", "Strict", "Warn"')
        return cls(dry_run == "All", validation, query.get("fieldManager", ""))


@dataclass(slots=True)
class Call:
    """See the module. `object` is the call's own: stages may change it in place."""

    api: Api
    request: Request
    target: Target
    resource: Resource
    user: User = ANONYMOUS
    operation: Operation = "CREATE"
    namespace: str = ""
    name: str = ""
    object: Object = field(default_factory=dict)
    old: Object | None = None
    options: Options = field(default_factory=Options)
    warnings: list[str] = field(default_factory=list)
    key: bytes = b""
    encoded: bytes = b""
    revision: int = 0
    admission: Review | None = None         # what admission remembers of this call

    @property
    def subresource(self) -> str:
        return self.target.subresource

    def warn(self, text: str) -> None:
        """Sent as a Warning header beside the answer."""
        if text not in self.warnings:
            self.warnings.append(text)

    def flag(self, name: str) -> bool:
        return is_true(self.request.query.get(name))
