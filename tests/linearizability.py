# SPDX-License-Identifier: Apache-2.0
"""Records what many threads were told by one store, and says whether one order explains it all.

    Client.do ─► Call(who, begin, request, answer, end) ─┐   all threads of a history
    Client.watched ─► what a watch delivered             ─┴► check(): findings, [] when all is well

Every change answers with its revision, so the order of the changes need not be searched for:
    replay   the changes in the order of their revisions, and what was read at each, through the
             naive model: values, versions, previous pairs, compares must be what was answered
    order    one pass over the calls by their begin: whoever begins after another's answer sees at
             least its revision; a change that begins then has a greater one
Reads that tell no revision are put at the first one that explains them: later calls are bound by
it from below only, so no other choice could explain more.  A revision nobody claims is given to a
call whose outcome is unknown, or to a lease that ended by itself; only there is something tried.

A finding begins with its rule:
    unique    two changes with one revision
    gap       a revision that nothing explains
    answer    not what the model says at that revision
    order     a change that began after its revision, or a later one, was known
    stale     a read that shows less than was known when it began
    early     a read of a change that had not begun when it ended
    never     a read of what was at no time so
    compacted a read below a known compaction, or refused without one
Where answers have no revisions (a mapping): `explained`, the general search of Wing and Gong with a
memory of what was tried, key by key.

Times come from the machine's monotonic clock: a counter of our own would be a lock between the
threads, and hide what it is to find.  Equal times count as side by side.
"""

from __future__ import annotations

import bisect
import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import model_leases
import models
import pairs
from models import plain
from pairs import Recipe

import kvcore

FOREVER = 1 << 63
UNKNOWN = {"OutcomeUnknownError"}     # it may have happened; behind every other error it has not
WRITES = {"Put", "PutMany", "Delete", "Txn", "Revoke", "Expiry"}


class Call(NamedTuple):
    """One call: what was asked for, what came back (plain tuples, or the name of an error)."""

    who: int
    begin: int
    end: int
    recipe: Recipe
    answer: Any
    at: int = 0          # revision of the snapshot that was asked; 0: the store

    def __str__(self) -> str:
        return f"{self.who}: {self.recipe.kind}{self.recipe.args}{self.recipe.kwargs or ''}"


# --- the recorder --------------------------------------------------------------------------------


class Pending(NamedTuple):
    """A submitted operation."""

    begin: int
    recipe: Recipe
    future: Any          # or the name of the error


class Client:
    """One thread's hands on a store; writes down what it does.

    `db` may be exchanged for the reopened store: the history goes on."""

    def __init__(self, db: Any, who: int = 0) -> None:
        self.db = db
        self.who = who
        self.calls: list[Call] = []

    def do(self, recipe: Recipe, submit: bool = False) -> Any:
        """Runs a request and returns its answer in plain tuples, or the name of its error."""
        if submit:
            return self.finish(self.start(recipe))
        return self.measured(recipe, lambda: _run(self.db, recipe))

    def start(self, recipe: Recipe) -> Pending:
        """Submits it; to be finished some time."""
        begin = time.monotonic_ns()
        try:
            return Pending(begin, recipe, self.db.submit(pairs.build(recipe, kvcore)))
        except kvcore.Error as error:
            return Pending(begin, recipe, type(error).__name__)

    def finish(self, pending: Pending) -> Any:
        """Waits for it."""
        def wait() -> Any:
            return pending.future.result(60)

        if isinstance(pending.future, str):
            return self._note(pending.begin, time.monotonic_ns(), pending.recipe, pending.future)
        return self.measured(pending.recipe, wait, begin=pending.begin)

    def read_snapshot(self, recipes: list[Recipe], between: Callable[[], Any] = bool) -> None:
        """Takes one, reads in it, does something, reads again."""
        begin = time.monotonic_ns()
        try:
            snap = self.db.snapshot()
        except kvcore.ClosedError as error:
            self._note(begin, time.monotonic_ns(), Recipe("Snapshot"), type(error).__name__)
            return
        self._note(begin, time.monotonic_ns(), Recipe("Snapshot"), snap.revision)
        with snap:
            for number, recipe in enumerate([*recipes, *recipes]):
                if number == len(recipes):
                    between()
                self.measured(recipe, lambda r=recipe: pairs.run_verb(snap, r), at=snap.revision)

    def watched(self, watch: Any, limit: int, timeout: float) -> int:
        """One batch of a watch; how many events were in it."""
        begin = time.monotonic_ns()
        try:
            batch = watch.get_batch(limit=limit, timeout=timeout)
        except kvcore.Error as error:
            self._note(begin, time.monotonic_ns(), Recipe("Watch"), type(error).__name__)
            return -1
        end = time.monotonic_ns()
        self._note(begin, end, Recipe("Watch"), [
            (event.type, plain(event.kv), plain(event.prev_kv)) for event in batch])
        return len(batch)

    def measured(self, recipe: Recipe, call: Callable[[], Any], begin: int = 0,
                 at: int = 0, plainly: Callable[[Any], Any] = plain) -> Any:
        """Calls; the answer is taken apart behind the clock's second look."""
        begin = begin or time.monotonic_ns()
        try:
            raw = call()
        except kvcore.Error as error:
            return self._note(begin, time.monotonic_ns(), recipe, type(error).__name__, at)
        end = time.monotonic_ns()
        return self._note(begin, end, recipe, plainly(raw), at)

    def _note(self, begin: int, end: int, recipe: Recipe, answer: Any, at: int = 0) -> Any:
        self.calls.append(Call(self.who, begin, end, recipe, answer, at))
        return answer


def _run(db: Any, recipe: Recipe) -> Any:
    """The verb of the store that does what the recipe says."""
    kind, args = recipe.kind, recipe.args
    if kind == "PutMany":
        return db.put_many(*args)
    if kind == "GetMany":
        return db.get_many(*args)
    if kind == "Revision":
        return db.revision
    if kind == "Grant":
        return db.lease(args[0], id=args[1]).granted_ttl
    if kind == "Revoke":
        return db.lease_of(args[0]).revoke()
    return pairs.run_verb(db, recipe)


# --- what an answer says -------------------------------------------------------------------------


def changed(answer: Any) -> bool:
    """Whether a change is in the answer of an operation."""
    if not isinstance(answer, tuple):
        return False
    if answer[0] == "txn":
        return any(changed(inner) for inner in answer[3])
    return answer[0] == "put" or (answer[0] == "delete" and answer[2] > 0)


def claims(call: Call) -> list[int]:
    """The revisions that the call says to have made."""
    answer = call.answer
    if isinstance(answer, str) or call.recipe.kind not in WRITES:
        return []
    if call.recipe.kind == "PutMany":
        return list(answer)
    return [revision_of(answer)] if changed(answer) else []


def revision_of(answer: Any) -> int:
    """The store's, as far as an answer tells; 0: it does not."""
    if isinstance(answer, int):
        return answer
    if isinstance(answer, list):
        return max([0, *(n for n in answer if isinstance(n, int))])
    if isinstance(answer, tuple) and answer and isinstance(answer[0], str):
        return int(answer[2] if answer[0] == "txn" else answer[1])
    return 0


def _past(recipe: Recipe) -> int:
    """The revision a read asks for; 0: the newest."""
    if recipe.kind == "Get" and len(recipe.args) > 1:
        return recipe.args[1] or 0
    return recipe.kwargs.get("revision") or 0


def pairs_in(answer: Any) -> Iterator[tuple[Any, ...]]:
    """Every (key, value, create, mod, version, lease) in an answer."""
    if isinstance(answer, tuple) and len(answer) == 6 and isinstance(answer[0], bytes):
        yield answer
    elif isinstance(answer, tuple | list):
        for part in answer:
            yield from pairs_in(part)


class Model(model_leases.LeaseModel):
    """The naive store, looking into a key's history by halves: histories are long here."""

    def live_at(self, key: bytes, revision: int) -> models.KeyValue | None:
        changes = self.history.get(key, [])
        at = bisect.bisect_right(changes, revision, key=lambda change: change.mod)
        return changes[at - 1].of(key) if at and changes[at - 1].value is not None else None

    def clone(self) -> Model:
        twin = super().clone()
        twin.__class__ = Model
        assert isinstance(twin, Model)
        return twin

    def outcome(self, recipe: Recipe) -> Any:
        """Runs it; the answer in plain tuples, or the name of the error."""
        if recipe.kind in ("Revoke", "Expiry"):
            return pairs.outcome(self.do, model_leases.LeaseRevoke(recipe.args[0]))
        if recipe.kind == "GetMany":
            return pairs.outcome(self.get_many, *recipe.args)
        return pairs.outcome(lambda: self.do(pairs.build(recipe, models)))

    def first_showing(self, wanted: list[tuple[bytes, Any]], lowest: int) -> int:
        """The first revision from `lowest` on at which the keys are as wanted; 0: there is none."""
        revision, settled = lowest, 0
        while settled < len(wanted):
            settled = 0
            for key, pair in wanted:
                found = self._first_showing(key, pair, revision)
                if not found:
                    return 0
                settled += found == revision
                revision = found
        return revision

    def _first_showing(self, key: bytes, pair: Any, lowest: int) -> int:
        changes = self.history.get(key, [])
        at = bisect.bisect_right(changes, lowest, key=lambda change: change.mod)
        for number in range(at - 1, len(changes)):
            since = changes[number].mod if number >= 0 else 1
            if plain(self.live_at(key, since)) == pair:
                return max(lowest, since)
        return 0


# --- the checker ---------------------------------------------------------------------------------


class Undecided(Exception):
    """More was tried than is allowed."""


def check(calls: list[Call], *, mortal: bool = False, bound: int = 2000) -> list[str]:
    """What is wrong with a history, [] when one order explains every answer.

    mortal: leases may end by themselves; bound: how many explanations of unclaimed revisions may
    be tried."""
    return _Check(calls, mortal, bound).findings()


class _Check:
    """One history, taken apart."""

    def __init__(self, calls: list[Call], mortal: bool, bound: int) -> None:
        self.calls = sorted(calls, key=lambda call: call.begin)
        self.bound = bound
        self.problems: list[str] = []
        self.claimed: dict[int, tuple[Call, Recipe, Any]] = {}
        self.told: dict[int, list[Call]] = defaultdict(list)   # answered at that revision
        self.unclaimed: list[Call] = []                        # what may explain a gap
        self.leases: dict[int, int] = {}                       # id -> begin of its grant
        self.facts: dict[int, set[tuple[Any, ...]]] = defaultdict(set)   # pairs seen, by mod
        self.gone: dict[int, set[bytes]] = defaultdict(set)    # deletions seen, by revision
        self.last = 1
        for call in self.calls:
            self._sort_in(call)
        if mortal:
            self.unclaimed += [Call(-1, begin, FOREVER, Recipe("Expiry", (id,)), None)
                               for id, begin in self.leases.items()]
        self.known_at = self._known_at()

    def _sort_in(self, call: Call) -> None:
        kind, answer = call.recipe.kind, call.answer
        if kind == "Grant":
            self.leases[call.recipe.args[1]] = call.begin
        elif kind == "Watch":
            return self._sort_in_events(call)
        elif answer in UNKNOWN if isinstance(answer, str) else False:
            self.unclaimed += [call._replace(recipe=recipe, end=FOREVER)
                               for recipe in parts(call.recipe) if kind in WRITES]
        elif claims(call):
            for revision, recipe in zip(claims(call), parts(call.recipe), strict=True):
                if revision in self.claimed:
                    self.problems.append(f"unique: revision {revision} of {call} and of "
                                         f"{self.claimed[revision][0]}")
                part = ("put", revision, None) if kind == "PutMany" else answer
                self.claimed[revision] = (call, recipe, part)
                self.last = max(self.last, revision)
        elif not isinstance(answer, str) and not call.at and revision_of(answer):
            self.told[revision_of(answer)].append(call)
            self.last = max(self.last, revision_of(answer))
        if "keys_only" not in call.recipe.kwargs:
            for pair in pairs_in(answer):
                self.facts[pair[3]].add(pair)
                self.last = max(self.last, pair[3])

    def _sort_in_events(self, call: Call) -> None:
        if isinstance(call.answer, str):
            return None
        for type, pair, prev in call.answer:
            self.last = max(self.last, pair[3])
            if type == "DELETE":
                self.gone[pair[3]].add(pair[0])
            else:
                self.facts[pair[3]].add(pair)
            if prev is not None:
                self.facts[prev[3]].add(prev)
        return None

    def _known_at(self) -> list[int]:
        """When each revision was known to somebody at the latest: nothing explains it that began
        later."""
        known = [FOREVER] * (self.last + 2)
        for call in self.calls:
            revision = max([0, *claims(call), _shown(call)])
            known[revision] = min(known[revision], call.end)
        for revision in range(self.last, 0, -1):
            known[revision] = min(known[revision], known[revision + 1])
        return known

    # replay

    def findings(self) -> list[str]:
        """The first explanation without findings, or those of the best one."""
        if self.problems:
            return self.problems
        model = Model()
        for id in self.leases:
            model._grant(60, id)
        try:
            return self._replay(model, 1, frozenset(range(len(self.unclaimed))), {})
        except Undecided:
            return [f"gap: undecided, too many ways to explain {len(self.unclaimed)} outcomes"]

    def _replay(self, model: Model, revision: int, unused: frozenset[int],
                given: dict[int, Call]) -> list[str]:
        while revision <= self.last:
            if revision > 1 and revision not in self.claimed:
                return self._explain(model, revision, unused, given)
            wrong = self._step(model, revision)
            if wrong:
                return wrong
            revision += 1
        return self._order(model, given) or self._compactions()

    def _step(self, model: Model, revision: int) -> list[str]:
        """The change of this revision, and what was answered at it."""
        if revision > 1:
            call, recipe, answer = self.claimed[revision]
            got = model.outcome(recipe)
            if got != answer or model.revision != revision:
                return [f"answer: {call} said {answer}, at {model.revision} it is {got}"]
        return self._reads(model, revision)

    def _reads(self, model: Model, revision: int) -> list[str]:
        """What tells this revision and changed nothing; a lease without keys goes last."""
        for call in sorted(self.told[revision], key=lambda call: call.recipe.kind == "Revoke"):
            if call.recipe.kind in ("Revision", "Snapshot", "Compact"):
                continue
            got = model.outcome(call.recipe)
            if got != call.answer:
                return [f"answer: {call} said {call.answer}, at {revision} it is {got}"]
        return []

    def _explain(self, model: Model, revision: int, unused: frozenset[int],
                 given: dict[int, Call]) -> list[str]:
        """A revision nobody claims: whose was it?"""
        best: list[str] = []
        for number in sorted(unused):
            call = self.unclaimed[number]
            if call.begin >= self.known_at[revision]:
                continue
            self.bound -= 1
            if self.bound < 0:
                raise Undecided
            twin = model.clone()
            if isinstance(twin.outcome(call.recipe), str) or twin.revision != revision:
                continue
            if not self._agrees(twin, revision) or self._reads(twin, revision):
                continue
            found = self._replay(twin, revision + 1, unused - {number}, {**given, revision: call})
            if not found:
                return []
            best = best or found
        return best or [f"gap: nothing explains revision {revision}"]

    def _agrees(self, model: Model, revision: int) -> bool:
        """Whether what was seen of the revision is in the model."""
        pairs_seen = all(plain(model.live_at(pair[0], revision)) == pair
                         for pair in self.facts[revision])
        return pairs_seen and all(model.history.get(key) and model.history[key][-1].mod == revision
                                  and model.history[key][-1].value is None
                                  for key in self.gone[revision])

    # order

    def _order(self, model: Model, given: dict[int, Call]) -> list[str]:
        """Each call against what was known when it began, and what had not begun when it ended."""
        ended: list[tuple[int, int]] = []
        known = 1
        made: dict[int, list[int]] = defaultdict(list)
        for revision, call in given.items():
            made[id(call)].append(revision)
        calls = sorted([*self.calls, *given.values()], key=lambda call: call.begin)
        ahead = _Ahead([(call.begin, revisions[0]) for call in calls
                        if (revisions := made.get(id(call)) or claims(call))])
        for call in calls:
            while ended and ended[0][0] < call.begin:
                known = max(known, heapq.heappop(ended)[1])
            revisions = made.get(id(call)) or claims(call)
            if revisions:
                if revisions[0] <= known or revisions != sorted(revisions):
                    return [f"order: {call} made {revisions}, {known} was known before"]
                heapq.heappush(ended, (call.end, revisions[-1]))
                continue
            shown, wrong = self._place(model, call, known, ahead.begun_by(call.end))
            if wrong:
                return [wrong]
            heapq.heappush(ended, (call.end, shown))
        return []

    def _place(self, model: Model, call: Call, known: int, most: int) -> tuple[int, str]:
        """The revision a call without a change shows, or what is wrong with it.

        most: behind it is only what had not begun."""
        kind, answer = call.recipe.kind, call.answer
        if call.at:
            return call.at, self._snapshot_read(model, call)
        if kind == "Watch":
            shown = _shown(call)
            return shown, self._events(model, call) or _early(call, shown, most)
        if answer == "FutureRevisionError":
            past = call.recipe.args[0] if kind == "Compact" else _past(call.recipe)
            return known, "" if known < past else f"stale: {call} refused, {known} was known"
        if answer == "LeaseNotFoundError":
            return known, self._leaseless(call)
        if kind == "Grant" or (isinstance(answer, str) and answer != "KeyNotFoundError"):
            return known, ""
        if kind == "Get" and _past(call.recipe):
            past = _past(call.recipe)
            there = plain(model.live_at(call.recipe.args[0], past))
            if there != answer:
                return past, f"answer: {call} said {answer}, not {there}"
            return past, _early(call, past, most)
        if kind in ("Get", "GetMany") or answer == "KeyNotFoundError":
            return self._place_get(model, call, known, most)
        shown = revision_of(answer)
        if shown < known:
            return shown, f"stale: {call} shows {shown}, {known} was known"
        return shown, _early(call, shown, most)

    def _place_get(self, model: Model, call: Call, known: int, most: int) -> tuple[int, str]:
        key = call.recipe.args[0]
        if call.answer == "KeyNotFoundError":
            wanted = [(key, None)]
        elif call.recipe.kind == "GetMany":
            wanted = list(zip(key, call.answer, strict=True))
        else:
            wanted = [(key, call.answer)]
        shown = model.first_showing(wanted, known)
        if shown and shown <= most:
            return shown, ""
        before = model.first_showing(wanted, 1)
        rule = "stale" if 0 < before < known else "early" if before else "never"
        return known, f"{rule}: {call} said {call.answer}, between {known} and {most}"

    def _leaseless(self, call: Call) -> str:
        """Whether the lease a call did not find may have ended, or not begun."""
        id = (call.recipe.args[0] if call.recipe.kind == "Revoke"
              else call.recipe.kwargs.get("lease"))
        if any(other.recipe.kind == "Expiry" and other.recipe.args[0] == id
               for other in self.unclaimed):
            return ""
        for other in self.calls:
            if other.begin < call.end and other.recipe == Recipe("Revoke", (id,)) and (
                    other is not call):
                return ""
        return f"answer: {call} did not find its lease, which nobody revoked"

    def _snapshot_read(self, model: Model, call: Call) -> str:
        """A snapshot shows its revision, whenever it is read."""
        if isinstance(call.answer, str):
            return ""
        past = _past(call.recipe) or call.at
        if call.recipe.kind == "Get":
            there = plain(model.live_at(call.recipe.args[0], past))
        else:
            options = {**call.recipe.kwargs, "revision": past}
            there = plain(model.range(*call.recipe.args, **options))
            there = (*there[:1], call.at, *there[2:])
        return "" if there == call.answer else (
            f"answer: {call} in the snapshot of {call.at} said {call.answer}, not {there}")

    def _events(self, model: Model, call: Call) -> str:
        """Each event is a change that happened; the rest is watch_checker's."""
        if isinstance(call.answer, str):
            return ""
        for type, pair, prev in call.answer:
            there = plain(model.live_at(pair[0], pair[3]))
            before = plain(model.live_at(pair[0], pair[3] - 1))
            if type == "PUT" and there != pair:
                return f"never: a watch showed {pair}, it is {there}"
            if type == "DELETE" and (there is not None or before is None):
                return f"never: a watch showed a deletion of {pair[0]!r} at {pair[3]}"
            if prev is not None and prev != before:
                return f"answer: a watch showed {prev} before {pair}, not {before}"
        return ""

    # compaction

    def _compactions(self) -> list[str]:
        """Reads of the past against the compactions that may, and must, have happened."""
        begun = sorted((call.begin, call.recipe.args[0]) for call in self.calls
                       if call.recipe.kind == "Compact"
                       and (call.answer in UNKNOWN or not isinstance(call.answer, str)))
        highest = [0]
        for _, target in begun:
            highest.append(max(highest[-1], target))
        ended: list[tuple[int, int]] = []
        floor = 0
        for call in self.calls:
            while ended and ended[0][0] < call.begin:
                floor = max(floor, heapq.heappop(ended)[1])
            most = highest[bisect.bisect_left(begun, (call.end, 0))]
            wrong = self._compacted(call, floor, most)
            if wrong:
                return [f"compacted: {call} said {call.answer}, {wrong}"]
            if call.recipe.kind == "Compact" and not isinstance(call.answer, str):
                heapq.heappush(ended, (call.end, call.recipe.args[0]))
        return []

    @staticmethod
    def _compacted(call: Call, floor: int, most: int) -> str:
        """`floor` was compacted when it began, at most `most` when it ended."""
        if call.recipe.kind == "Compact":
            target = call.recipe.args[0]
            low, high = floor < target, most >= target
        else:
            target = _past(call.recipe)
            low, high = floor <= target, most > target
        if call.at or not target or call.recipe.kind == "Watch":
            return ""
        if call.answer == "CompactedError":
            return "" if high else f"nobody had compacted more than {most}"
        return "" if low or isinstance(call.answer, str) else f"{floor} was compacted before"


class _Ahead:
    """Which revisions a call can have seen: none of a change that began behind its end."""

    def __init__(self, changes: list[tuple[int, int]]) -> None:
        self._begins = [begin for begin, _ in changes]
        self._least = [FOREVER]
        for _, revision in reversed(changes):
            self._least.append(min(self._least[-1], revision))
        self._least.reverse()

    def begun_by(self, end: int) -> int:
        """The newest of which all before it, itself included, may have been seen."""
        return self._least[bisect.bisect_right(self._begins, end)] - 1


def _early(call: Call, shown: int, most: int) -> str:
    return f"early: {call} shows {shown}, which had not begun" if shown > most else ""


def _shown(call: Call) -> int:
    """The newest revision the caller knows from it."""
    if isinstance(call.answer, str):
        return 0
    if call.recipe.kind == "Watch":
        return max([0, *(pair[3] for _, pair, _ in call.answer)])
    if call.at or call.recipe.kind == "Grant":
        return call.at
    return max([revision_of(call.answer), *(pair[3] for pair in pairs_in(call.answer))])


def parts(recipe: Recipe) -> list[Recipe]:
    """A put_many is as many puts."""
    if recipe.kind != "PutMany":
        return [recipe]
    return [Recipe("Put", (key, value)) for key, value in recipe.args[0]]


# --- the general search --------------------------------------------------------------------------

Step = Callable[[Any, Call], list[Hashable]]   # the states a call may lead to; []: it may not


def explained(calls: list[Call], step: Step, start: Hashable = None,
              bound: int = 1_000_000) -> bool:
    """Whether the calls of one key can be put into an order that explains their answers.

    A call that ends FOREVER may be left out.  Undecided is raised behind `bound` steps."""
    calls = sorted(calls, key=lambda call: call.begin)
    everything = sum(1 << i for i, call in enumerate(calls) if call.end < FOREVER)
    stack: list[tuple[int, Hashable]] = [(0, start)]
    tried = {(0, start)}
    while stack:
        done, state = stack.pop()
        if done & everything == everything:
            return True
        for number in _next_ones(calls, done):
            bound -= 1
            if bound < 0:
                raise Undecided
            for following in step(state, calls[number]):
                entry = (done | 1 << number, following)
                if entry not in tried:
                    tried.add(entry)
                    stack.append(entry)
    return False


def _next_ones(calls: list[Call], done: int) -> Iterator[int]:
    """The calls that may come next: none that is still to come ended before they began."""
    first_end = FOREVER + 1
    number = (~done & (done + 1)).bit_length() - 1     # the first that is not done
    candidates = []
    while number < len(calls) and calls[number].begin <= first_end:
        if not done >> number & 1:
            candidates.append(number)
            first_end = min(first_end, calls[number].end)
        number += 1
    return (n for n in candidates if calls[n].begin <= first_end)


def partition(calls: list[Call]) -> dict[bytes, list[Call]]:
    """The calls of each key."""
    by_key: dict[bytes, list[Call]] = defaultdict(list)
    for call in calls:
        by_key[call.recipe.args[0]].append(call)
    return by_key


def register(state: Any, call: Call) -> list[Hashable]:
    """A key of a mapping: set, get, pop, setdefault; state: its value, None when it is absent."""
    kind, answer = call.recipe.kind, call.answer
    value = call.recipe.args[1] if len(call.recipe.args) > 1 else None
    lost = call.end == FOREVER
    if kind == "set":
        return [value]
    if kind == "setdefault":
        following = value if state is None else state
        return [following] if lost or answer == following else []
    if kind == "pop":
        return [None] if lost or answer == state else []
    assert kind == "get", kind
    return [state] if lost or answer == state else []


__all__ = ["FOREVER", "Call", "Client", "Model", "Pending", "Undecided", "changed", "check",
           "claims", "explained", "partition", "register", "revision_of"]
