# SPDX-License-Identifier: Apache-2.0
"""A store and its model side by side, and Hypothesis strategies for what may be asked of them.

A request is drawn once, as a recipe; `build(recipe, module)` makes the operation for kvcore or for
the model out of it. `Pair.same` runs one verb on both and compares the answers, or the errors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import models
from hypothesis import strategies as st

import kvcore

MAX_REQUEST = 16384
LONG = b"/long/" + b"x" * 300


class Recipe(NamedTuple):
    """An operation yet to be made: class name, arguments, keyword arguments."""

    kind: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # never changed


def build(recipe: Recipe, api: Any) -> Any:
    """The operation, for kvcore or for models."""
    if recipe.kind == "Compare":
        target, span, result, operand = recipe.args
        compare = getattr(api.Compare, target)(**span)
        return {"==": lambda: compare == operand, "!=": lambda: compare != operand,
                "<": lambda: compare < operand, ">": lambda: compare > operand}[result]()
    args = [[build(inner, api) for inner in arg] if isinstance(arg, list) else arg
            for arg in recipe.args]
    return getattr(api, recipe.kind)(*args, **recipe.kwargs)


class Pair:
    """A store and its model."""

    def __init__(self, db: Any, model: models.ModelStore) -> None:
        self.db = db
        self.model = model

    def same(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Runs a verb on both; their answers, or the classes of their errors, must be equal."""
        got = outcome(getattr(self.db, verb), *args, **kwargs)
        wanted = outcome(getattr(self.model, verb), *args, **kwargs)
        assert got == wanted, f"{verb}{args}{kwargs}: {got} is not {wanted}"
        return got

    def same_op(self, recipe: Recipe, submit: bool = False) -> Any:
        """Runs an operation on both, as its own verb or submitted."""
        if submit:
            got = outcome(lambda: self.db.submit(build(recipe, kvcore)).result(timeout=60))
        else:
            got = outcome(run_verb, self.db, recipe)
        wanted = outcome(lambda: self.model.do(build(recipe, models)))
        assert got == wanted, f"{recipe}: {got} is not {wanted}"
        return got

    def same_state(self) -> None:
        """What both show about themselves."""
        status = self.db.status()
        got = (self.db.revision, self.db.compact_revision, status.revision,
               status.compact_revision, status.keys, self.db.range(count_only=True).count)
        revision, compacted, keys = (self.model.revision, self.model.compact_revision,
                                     self.model.keys())
        assert got == (revision, compacted, revision, compacted, keys, keys)


def run_verb(db: Any, recipe: Recipe) -> Any:
    """The verb that does what the operation says."""
    verb = recipe.kind.lower()
    if recipe.kind == "Txn":
        op = [[build(inner, kvcore) for inner in part] for part in recipe.args]
        return db.txn(*op)
    return getattr(db, verb)(*recipe.args, **recipe.kwargs)


def outcome(call: Any, *args: Any, **kwargs: Any) -> Any:
    """The answer as plain tuples, or the name of kvcore's error."""
    try:
        return models.plain(call(*args, **kwargs))
    except kvcore.Error as error:
        return type(error).__name__


# --- strategies ----------------------------------------------------------------------------------

KEYS = [b"a", b"a\0", b"a\0\0", b"a\xff", b"a\xff\xff", b"b", b"ba", b"bb", b"c", b"\0", b"\xff",
        b"/registry/pods/default/a", b"/registry/pods/default/b", b"/registry/pods/kube-system/a",
        LONG, LONG + b"\0", LONG + b"y", b"z" * 255, b"z" * 256, b"z" * 257]
keys = st.sampled_from(KEYS)
values = st.one_of(
    st.sampled_from([b"", b"1", b"2", b"2\0", b"three"]),
    st.integers(0, 400).map(lambda n: b"v" * n),
)
BIG_VALUE = b"w" * (MAX_REQUEST + 1)
flags = st.booleans()
rare = st.integers(0, 15).map(lambda n: n == 0)


@st.composite
def spans(draw: st.DrawFn, *, needed: bool) -> dict[str, Any]:
    """start and end, or a prefix, or (unless needed) nothing."""
    kind = draw(st.integers(0, 9 if needed else 11))
    if kind >= 10:
        return {}
    if kind >= 8:
        return {"prefix": draw(st.sampled_from([b"", b"a", b"b", b"/", LONG, b"\xff", b"a\xff"]))}
    start = draw(keys)
    if kind >= 4:
        end = draw(st.one_of(keys, st.just(b"\0")))
        return {"start": start, "end": end}
    return {"start": start}


def _named(span: dict[str, Any]) -> dict[str, Any]:
    """The same span for verbs whose first argument is called key."""
    return {("key" if name == "start" else name): value for name, value in span.items()}


@st.composite
def puts(draw: st.DrawFn) -> Recipe:
    value = draw(values)
    options: dict[str, Any] = {}
    if draw(flags):
        options["prev"] = True
    if draw(rare):
        options["ignore_value"] = True
        value = draw(st.sampled_from([b"", b"", b"", b"1"]))
    if draw(rare):
        options["ignore_lease"] = True
    if draw(rare):
        options["lease"] = draw(st.sampled_from([1, -1, 1 << 62]))
    return Recipe("Put", (draw(keys), BIG_VALUE if draw(rare) and draw(rare) else value), options)


@st.composite
def deletes(draw: st.DrawFn) -> Recipe:
    return Recipe("Delete", (), {**_named(draw(spans(needed=True))), "prev": draw(flags)})


def revisions(newest: int) -> st.SearchStrategy[int | None]:
    """Mostly sensible ones, some compacted, future, zero and negative."""
    return st.one_of(st.none(), st.none(), st.integers(-2, newest + 2),
                     st.integers(max(1, newest - 6), newest))


@st.composite
def ranges(draw: st.DrawFn, newest: int) -> Recipe:
    options = draw(spans(needed=False))
    if draw(flags):
        options["limit"] = draw(st.integers(-1, 8))
    if draw(flags):
        options["revision"] = draw(revisions(newest))
    if draw(flags):
        target = draw(st.sampled_from(["key", "version", "create_revision", "mod_revision",
                                       "value"]))
        options["sort"] = draw(st.sampled_from(["", "-"])) + target
    if draw(rare):
        options["count_only"] = True
    if draw(rare):
        options["keys_only"] = True
    for bound in ("min_mod_revision", "max_mod_revision", "min_create_revision",
                  "max_create_revision"):
        if draw(rare):
            options[bound] = draw(st.integers(0, newest + 1))
    return Recipe("Range", (), options)


@st.composite
def gets(draw: st.DrawFn, newest: int) -> Recipe:
    return Recipe("Get", (draw(keys),), {"revision": draw(revisions(newest))})


@st.composite
def compares(draw: st.DrawFn, newest: int) -> Recipe:
    target = draw(st.sampled_from(["value", "version", "create_revision", "mod_revision",
                                   "lease"]))
    operand = draw({"value": values, "version": st.integers(-1, 4)}.get(
        target, st.integers(0, newest + 1)))
    result = draw(st.sampled_from(["==", "!=", "<", ">"]))
    return Recipe("Compare", (target, _named(draw(spans(needed=True))), result, operand))


@st.composite
def txns(draw: st.DrawFn, newest: int, depth: int = 2) -> Recipe:
    """Up to five operations a branch, nested two deep; often with duplicate keys, as drawn."""
    ops = [puts(), puts(), deletes(), ranges(newest), gets(newest)]
    if depth:
        ops.append(txns(newest, depth - 1))
    branch = st.lists(st.one_of(*ops), max_size=5)
    guard = st.lists(compares(newest), max_size=2)
    return Recipe("Txn", (draw(guard), draw(branch), draw(branch)))


def operations(newest: int) -> st.SearchStrategy[Recipe]:
    """Whatever submit takes."""
    compact = st.integers(-1, newest + 1).map(lambda revision: Recipe("Compact", (revision,)))
    return st.one_of(puts(), puts(), deletes(), ranges(newest), gets(newest), txns(newest),
                     compact)
