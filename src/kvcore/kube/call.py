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
from kvcore.kube.status import Cause

if TYPE_CHECKING:
    from kvcore.kube.admission.chain import Review
    from kvcore.kube.api import Api

__all__ = ["Call", "Object", "Operation", "Options"]

Object = dict[str, Any]
Operation = Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]

MANAGER_MAX = 128                        # bytes of a fieldManager
LARGE_BODY = 128 * 1024                  # bytes that are not read in the event loop


@dataclass(slots=True)
class Options:
    """What the query says of a write: dryRun, fieldValidation, fieldManager. Those of a request
    that says nothing are shared, and only read."""

    dry_run: bool = False
    field_validation: str = "Warn"          # Ignore | Warn | Strict; upstream's default is Warn
    field_manager: str = ""

    @classmethod
    def of(cls, query: dict[str, str], kind: str = "CreateOptions") -> Options:
        """Args: kind: as errors name them. Errors: 422."""
        if not query:
            return cls()
        manager = query.get("fieldManager", "")
        validation = query.get("fieldValidation", "")
        causes = []
        if len(manager.encode()) > MANAGER_MAX:
            causes.append(Cause("fieldManager", "FieldValueTooLong",
                                f"Too long: may not be more than {MANAGER_MAX} bytes"))
        shown = manager[:2 * MANAGER_MAX]     # each cause shows it: not a MiB
        causes.extend(Cause.invalid("fieldManager", shown, f"invalid character U+{ord(c):04X} "
                                    f"(at position {len(manager[:at].encode())})")
                      for at, c in enumerate(manager[:MANAGER_MAX]) if not c.isprintable())
        if "dryRun" in query and query["dryRun"] != "All":
            causes.append(Cause.unsupported("dryRun", query["dryRun"].split("\n"), "All"))
        if validation not in ("", "Ignore", "Warn", "Strict"):
            causes.append(Cause.unsupported("fieldValidation", validation, "", "Ignore", "Strict",
                                            "Warn"))
        if causes:
            raise status.invalid_options(kind, causes)
        return cls("dryRun" in query, validation or "Warn", manager)

    def said(self) -> Object:
        """The fields of CreateOptions, UpdateOptions and DeleteOptions that were given, but for
        fieldValidation, which may be a default."""
        return ({"dryRun": ["All"]} if self.dry_run else {}) | (
            {"fieldManager": self.field_manager} if self.field_manager else {})


DEFAULTS = Options()


@dataclass(slots=True)
class Call:
    """See the module. `object` is the call's own: stages may change it in place. `old`: the
    object as it is stored, for updates and deletes. `generated`: the name is the server's."""

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
    options: Options = field(default_factory=lambda: DEFAULTS)
    warnings: list[str] = field(default_factory=list)
    key: bytes = b""
    encoded: bytes = b""
    revision: int = 0
    generated: bool = False
    repeated: list[str] | None = None       # keys that a YAML body gives twice, if it is known
    checked: bool = False                   # the object's fields are settled already
    parsed: Any = None                      # a patch or DeleteOptions that a thread has read
    sent_spec: bytes = b""                  # of a new pod, as JSON; none: nobody may remember it
    known_spec: bytes | None = None         # what defaulting makes of it, if that is known
    admission: Review | None = None         # what admission remembers of this call

    @property
    def subresource(self) -> str:
        return self.target.subresource

    @property
    def shown(self) -> tuple[str, str]:
        """apiVersion and kind of what admission sees: of some subresources another than the
        resource's."""
        seen = self.object or self.old or {}
        return (seen.get("apiVersion") or self.resource.api_version,
                seen.get("kind") or self.resource.kind)

    def warn(self, text: str) -> None:
        """Sent as a Warning header beside the answer."""
        if text not in self.warnings:
            self.warnings.append(text)

    def flag(self, name: str) -> bool:
        return is_true(self.request.query.get(name))
