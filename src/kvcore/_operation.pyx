# SPDX-License-Identifier: Apache-2.0
"""Operations: Put, Get, Range, Delete, Txn, Compact, Compare, LeaseGrant, LeaseRevoke.

    kvcore.Put(b"/a", b"1") ── encode_op ──► the command's bytes (_command)

Encoding checks everything etcd checks before consensus (empty keys, sizes, number of operations,
duplicate keys) and decides what must not differ on replay (a lease's id); what is left can only
fail at apply, and then fails identically on replay.

Thread safety: operations are immutable.  May not know: index, log, engine.
"""

from operator import index

cimport cython
from libc.stdint cimport int64_t

from kvcore._command cimport (
    CMD_RANGE, CMD_TXN, CMP_CREATE, CMP_EQUAL, CMP_GREATER, CMP_LEASE, CMP_LESS, CMP_MOD,
    CMP_NOT_EQUAL, CMP_VALUE, CMP_VERSION, FLAG_COUNT_ONLY, FLAG_IGNORE_LEASE, FLAG_IGNORE_VALUE,
    FLAG_KEYS_ONLY, FLAG_PREV, FLAG_SINGLE, KvBuf, Limits, ORDER_ASCEND, ORDER_DESCEND, ORDER_NONE,
    TARGET_CREATE, TARGET_KEY, TARGET_MOD, TARGET_VALUE, TARGET_VERSION, add_array, add_bin,
    add_int, check_end, check_key, encode_compact, encode_delete, encode_lease_grant,
    encode_lease_revoke, encode_put,
)
from kvcore._native cimport kv_raise, kv_random_u64

from kvcore.errors import (DuplicateKeyError, EmptyKeyError, InvalidArgument, InvalidSortError,
                           LeaseTTLTooLargeError, TooManyOpsError)

cdef enum:
    MAX_LEASE_TTL = 9000000000   # seconds, as in etcd

# =================================================================================================
# Encoding
# =================================================================================================

cdef int _encode_range(KvBuf* b, const Limits* lim, Range op) except -1:
    check_key(lim, op.key)
    check_end(op.end)
    add_array(b, 12)
    add_int(b, CMD_RANGE)
    add_int(b, op.spec.flags)
    add_bin(b, op.key)
    add_bin(b, op.end)
    add_int(b, op.spec.limit)
    add_int(b, op.spec.revision)
    add_int(b, op.spec.order)
    add_int(b, op.spec.target)
    add_int(b, op.spec.min_mod)
    add_int(b, op.spec.max_mod)
    add_int(b, op.spec.min_create)
    return add_int(b, op.spec.max_create)


cdef int _encode_compare(KvBuf* b, const Limits* lim, Compare c) except -1:
    check_key(lim, c.key)
    check_end(c.end)
    if c.result < 0:
        raise InvalidArgument("kvcore: a compare needs an operator: Compare.version(key) == 1")
    add_array(b, 5)
    add_int(b, c.target)
    add_int(b, c.result)
    if c.target == CMP_VALUE:
        add_bin(b, c.operand)
    else:
        add_int(b, c.operand)
    add_bin(b, c.key)
    return add_bin(b, c.end)


cdef int _encode_ops(KvBuf* b, const Limits* lim, object ops, int64_t budget,
                     bint* read_only) except -1:
    add_array(b, len(ops))
    for op in ops:
        if isinstance(op, Txn):
            read_only[0] = False     # as in etcd, a nested transaction counts as a write
            encode_txn(b, lim, (<Txn>op).compare, (<Txn>op).success, (<Txn>op).failure, budget,
                       read_only)
        elif isinstance(op, (Compact, LeaseGrant, LeaseRevoke)):
            raise TypeError(f"a transaction cannot hold a {type(op).__name__}")
        else:
            encode_op(b, lim, op, read_only)
    return 0


cdef int encode_txn(KvBuf* b, const Limits* lim, object compare, object success, object failure,
                    int64_t budget, bint* read_only) except -1:
    cdef int64_t ops = max(len(compare), len(success), len(failure))
    if ops > budget:
        raise TooManyOpsError()
    add_array(b, 4)
    add_int(b, CMD_TXN)
    add_array(b, len(compare))
    for c in compare:
        if not isinstance(c, Compare):
            raise TypeError(f"compare takes Compare objects, not {type(c).__name__}")
        _encode_compare(b, lim, <Compare>c)
    _encode_ops(b, lim, success, budget - ops, read_only)
    return _encode_ops(b, lim, failure, budget - ops, read_only)


cdef int _encode_grant(KvBuf* b, const Limits* lim, LeaseGrant op) except -1:
    """The id is decided here, so that a replay grants the same."""
    cdef int64_t lease = op.id
    if op.ttl > <int64_t>MAX_LEASE_TTL:
        raise LeaseTTLTooLargeError()
    while lease == 0:
        lease = <int64_t>(kv_random_u64() >> 1)
    return encode_lease_grant(b, lease, max(op.ttl, lim.min_lease_ttl))


cdef int encode_op(KvBuf* b, const Limits* lim, object op, bint* read_only) except -1:
    cdef Put put
    if isinstance(op, Put):
        read_only[0] = False
        put = <Put>op
        return encode_put(b, lim, put.key, put.value, put.lease, put.flags)
    if isinstance(op, Range):
        return _encode_range(b, lim, <Range>op)
    if isinstance(op, Delete):
        read_only[0] = False
        return encode_delete(b, lim, (<Delete>op).key, (<Delete>op).end, (<Delete>op).flags)
    if isinstance(op, Txn):
        encode_txn(b, lim, (<Txn>op).compare, (<Txn>op).success, (<Txn>op).failure,
                   lim.max_txn_ops, read_only)
        return check_txn((<Txn>op).success, (<Txn>op).failure)
    if isinstance(op, Compact):
        read_only[0] = False
        return kv_raise(encode_compact(b, (<Compact>op).revision))
    if isinstance(op, LeaseGrant):
        read_only[0] = False
        return _encode_grant(b, lim, <LeaseGrant>op)
    if isinstance(op, LeaseRevoke):
        read_only[0] = False
        return kv_raise(encode_lease_revoke(b, (<LeaseRevoke>op).id))
    raise TypeError(f"not an operation: {type(op).__name__}")


# =================================================================================================
# Duplicate keys: etcd's interval check
# =================================================================================================

cdef bint _covered(list dels, bytes key):
    for start, end in dels:
        if end is None:
            if key == start:
                return True
        elif key >= start and (end == b"\0" or key < end):
            return True
    return False


cdef int _add_puts(set puts, list dels, set mine, set allowed) except -1:
    """`mine` joins `puts`; a key already there, unless allowed, or deleted, is a duplicate."""
    for key in mine:
        if (key in puts and key not in allowed) or _covered(dels, key):
            raise DuplicateKeyError()
    puts |= mine
    return 0


cdef tuple _intervals(object ops):
    """The keys put and the spans deleted by a branch; raises when one key would change twice."""
    cdef set puts = set()
    cdef list dels = []
    for op in ops:
        if isinstance(op, Delete):
            dels.append(((<Delete>op).key, (<Delete>op).end))
    for op in ops:
        if isinstance(op, Txn):
            then_puts, then_dels = _intervals((<Txn>op).success)
            else_puts, else_dels = _intervals((<Txn>op).failure)
            _add_puts(puts, dels, then_puts, set())
            _add_puts(puts, dels, else_puts, then_puts)      # only one of the branches runs
            dels += then_dels
            dels += else_dels
    for op in ops:
        if isinstance(op, Put):
            _add_puts(puts, dels, {(<Put>op).key}, set())
    return puts, dels


cdef int check_txn(object success, object failure) except -1:
    if len(success) > 1 or (len(success) == 1 and isinstance(success[0], Txn)):
        _intervals(success)
    if len(failure) > 1 or (len(failure) == 1 and isinstance(failure[0], Txn)):
        _intervals(failure)
    return 0


# =================================================================================================
# Operations
# =================================================================================================

cdef bytes _bytes(object what, str name):
    if type(what) is not bytes:
        if isinstance(what, str):
            raise TypeError(f"{name} must be bytes, not str: encode it, for instance "
                            f"{name}.encode()")
        raise TypeError(f"{name} must be bytes, not {type(what).__name__}")
    return <bytes>what


cdef int64_t as_int(object what) except? -1:
    return index(what)


def prefix_end(bytes prefix not None):
    """The end of the range of all keys that begin with `prefix`; b"\\0" when there is no bound.

    >>> prefix_end(b"/a/")
    b'/a0'
    >>> prefix_end(b"a\\xff")
    b'b'
    >>> prefix_end(b"\\xff")
    b'\\x00'
    """
    cdef bytes cut = prefix.rstrip(b"\xff")
    if not cut:
        return b"\0"
    return cut[:len(cut) - 1] + bytes((cut[len(cut) - 1] + 1,))


cdef tuple make_span(object start, object end, object prefix, bint all_when_empty):
    """(key, end) as the wire has them, from start, end and prefix as people write them."""
    if prefix is not None:
        if start is not None or end is not None:
            raise TypeError("give either a prefix or start and end, not both")
        _bytes(prefix, "prefix")
        return (prefix, prefix_end(prefix)) if prefix else (b"\0", b"\0")
    if start is None:
        if end is not None:
            raise TypeError("end without start; from the first key on is start=b'\\0'")
        if not all_when_empty:
            raise EmptyKeyError()
        return (b"\0", b"\0")
    _bytes(start, "key")
    if end is None or (_bytes(end, "end") == b""):
        return (start, None)
    return (start, end)


cdef str _named(dict options):
    return "".join([f", {name}={value!r}" for name, value in options.items() if value])


cdef dict _flags(int64_t flags):
    return {"prev": flags & FLAG_PREV != 0, "ignore_value": flags & FLAG_IGNORE_VALUE != 0,
            "ignore_lease": flags & FLAG_IGNORE_LEASE != 0}


def _restore(kind, key, end, options):
    """A pickled Range or Get."""
    return kind(key, **options) if end is None else kind(key, end, **options)


cdef dict _TARGETS = {"key": TARGET_KEY, "version": TARGET_VERSION,
                      "create_revision": TARGET_CREATE, "mod_revision": TARGET_MOD,
                      "value": TARGET_VALUE}


cdef tuple make_sort(object sort):
    """(order, target) from None, "mod_revision", "-mod_revision", ..."""
    if sort is None:
        return (ORDER_NONE, TARGET_KEY)
    if not isinstance(sort, str):
        raise TypeError(f"sort must be a str, not {type(sort).__name__}")
    target = _TARGETS.get(sort[1:] if sort.startswith("-") else sort)
    if target is None:
        raise InvalidSortError(f"etcdserver: invalid sort option: {sort!r}; one of "
                               f"{', '.join(_TARGETS)}, with '-' in front for descending")
    return (ORDER_DESCEND if sort.startswith("-") else ORDER_ASCEND, target)


@cython.final
@cython.freelist(64)
cdef class Put:
    """Give `key` a new value: an operation for txn() and submit().

    >>> Put(b"/a", b"1")
    Put(b'/a', b'1')
    """

    def __init__(self, key, value=b"", *, lease=0, bint prev=False,
                 bint ignore_value=False, bint ignore_lease=False):
        self.key = _bytes(key, "key")
        self.value = _bytes(value, "value")
        self.lease = as_int(lease)
        self.flags = ((FLAG_PREV if prev else 0) | (FLAG_IGNORE_VALUE if ignore_value else 0)
                      | (FLAG_IGNORE_LEASE if ignore_lease else 0))

    def __repr__(self):
        return (f"Put({self.key!r}, {self.value!r}{_named({'lease': self.lease})}"
                f"{_named(_flags(self.flags))})")


@cython.final
cdef class Delete:
    """Delete one key, [key, end), or a prefix.

    >>> Delete(prefix=b"/a/")
    Delete(b'/a/', b'/a0')
    """

    def __init__(self, key=None, end=None, *, prefix=None, bint prev=False):
        self.key, self.end = make_span(key, end, prefix, False)
        self.flags = FLAG_PREV if prev else 0

    def __repr__(self):
        end = f", {self.end!r}" if self.end else ""
        return f"Delete({self.key!r}{end}{_named(_flags(self.flags))})"


cdef class Range:
    """Read one key, [start, end), a prefix, or everything; options as Store.range.

    >>> Range(prefix=b"/a/", limit=10)
    Range(b'/a/', b'/a0', limit=10)
    """

    def __init__(self, start=None, end=None, *, prefix=None, limit=0, revision=None,
                 bint keys_only=False, bint count_only=False, sort=None,
                 min_mod_revision=0, max_mod_revision=0,
                 min_create_revision=0, max_create_revision=0):
        self.key, self.end = make_span(start, end, prefix, True)
        self.spec.flags = ((FLAG_KEYS_ONLY if keys_only else 0)
                           | (FLAG_COUNT_ONLY if count_only else 0))
        self.spec.limit = as_int(limit)
        self.spec.revision = 0 if revision is None else as_int(revision)
        self.spec.order, self.spec.target = make_sort(sort)
        self.spec.min_mod = as_int(min_mod_revision)
        self.spec.max_mod = as_int(max_mod_revision)
        self.spec.min_create = as_int(min_create_revision)
        self.spec.max_create = as_int(max_create_revision)

    def __reduce__(self):
        return (_restore, (type(self), self.key, self.end, _range_options(self)))

    def __repr__(self):
        end = f", {self.end!r}" if self.end else ""
        return f"{type(self).__name__}({self.key!r}{end}{_named(_range_options(self))})"


cdef dict _range_options(Range op):
    """What the keyword arguments were."""
    cdef const RangeCmd* s = &op.spec
    if s.flags & FLAG_SINGLE:
        return {"revision": s.revision}
    sort = None
    if s.order != ORDER_NONE:
        sort = ("-" if s.order == ORDER_DESCEND else "") + list(_TARGETS)[
            list(_TARGETS.values()).index(s.target)]
    return {"limit": s.limit, "revision": s.revision, "keys_only": s.flags & FLAG_KEYS_ONLY != 0,
            "count_only": s.flags & FLAG_COUNT_ONLY != 0, "sort": sort,
            "min_mod_revision": s.min_mod, "max_mod_revision": s.max_mod,
            "min_create_revision": s.min_create, "max_create_revision": s.max_create}


@cython.final
cdef class Get(Range):
    """Read one key; answered with a KeyValue or None."""

    def __init__(self, key, revision=None):
        self.key = _bytes(key, "key")
        self.end = None
        self.spec.flags = FLAG_SINGLE
        self.spec.revision = 0 if revision is None else as_int(revision)


@cython.final
cdef class Compact:
    """Forget what only revisions before `revision` show (submit only)."""

    def __init__(self, revision):
        self.revision = as_int(revision)

    def __repr__(self):
        return f"Compact({self.revision})"


@cython.final
cdef class LeaseGrant:
    """Grant a lease of `ttl` seconds (submit only); `id` 0: a random one is chosen.

    >>> LeaseGrant(60, id=7)
    LeaseGrant(60, id=7)
    """

    def __init__(self, ttl, id=0):
        self.ttl = as_int(ttl)
        self.id = as_int(id)

    def __repr__(self):
        return f"LeaseGrant({self.ttl}, id={self.id})"


@cython.final
cdef class LeaseRevoke:
    """End a lease and delete the keys attached to it, all in one revision (submit only)."""

    def __init__(self, id):
        self.id = as_int(id)

    def __repr__(self):
        return f"LeaseRevoke({self.id})"


cdef dict _COMPARED = {CMP_VERSION: "version", CMP_CREATE: "create_revision",
                       CMP_MOD: "mod_revision", CMP_VALUE: "value", CMP_LEASE: "lease"}
cdef dict _OPERATORS = {CMP_EQUAL: "==", CMP_GREATER: ">", CMP_LESS: "<", CMP_NOT_EQUAL: "!="}


@cython.final
cdef class Compare:
    """A guard of a transaction, made by naming a property and an operator.

    With `end` (or `prefix`) every live key of the range must satisfy it.  A missing key counts as
    all zeros; a compare of its value is false whatever the operator, as in etcd.

    >>> Compare.mod_revision(b"/a") == 3
    Compare.mod_revision(b'/a') == 3
    >>> Compare.value(b"/a") != b"1"
    Compare.value(b'/a') != b'1'
    """

    def __init__(self):
        raise TypeError("make one by Compare.value(key), .version, .create_revision, "
                        ".mod_revision or .lease, and an operator")

    @staticmethod
    def value(key=None, end=None, *, prefix=None):
        """The value, compared with bytes."""
        return _compare(CMP_VALUE, key, end, prefix)

    @staticmethod
    def version(key=None, end=None, *, prefix=None):
        """The version: 0 when the key is missing."""
        return _compare(CMP_VERSION, key, end, prefix)

    @staticmethod
    def create_revision(key=None, end=None, *, prefix=None):
        """The revision of the key's creation: 0 when it is missing."""
        return _compare(CMP_CREATE, key, end, prefix)

    @staticmethod
    def mod_revision(key=None, end=None, *, prefix=None):
        """The revision of the key's last change: 0 when it is missing."""
        return _compare(CMP_MOD, key, end, prefix)

    @staticmethod
    def lease(key=None, end=None, *, prefix=None):
        """The lease's id: 0 when there is none, or no key."""
        return _compare(CMP_LEASE, key, end, prefix)

    def __richcmp__(self, other, int op):
        if op == 2:
            return _compared(self, CMP_EQUAL, other)
        if op == 3:
            return _compared(self, CMP_NOT_EQUAL, other)
        if op == 0:
            return _compared(self, CMP_LESS, other)
        if op == 4:
            return _compared(self, CMP_GREATER, other)
        raise TypeError("compares know ==, !=, < and >")

    __hash__ = None

    def __bool__(self):
        raise TypeError("a Compare is sent to the store, it has no truth of its own")

    def __repr__(self):
        span = f"{self.key!r}, {self.end!r}" if self.end else repr(self.key)
        text = f"Compare.{_COMPARED[self.target]}({span})"
        if self.result < 0:
            return text
        return f"{text} {_OPERATORS[self.result]} {self.operand!r}"


cdef Compare _compare(int64_t target, object key, object end, object prefix):
    cdef Compare c = Compare.__new__(Compare)
    c.key, c.end = make_span(key, end, prefix, False)
    c.target = target
    c.result = -1
    return c


cdef Compare _compared(Compare c, int64_t result, object operand):
    cdef Compare made = Compare.__new__(Compare)
    if c.target == CMP_VALUE:
        _bytes(operand, "value")
    elif not isinstance(operand, int) or isinstance(operand, bool):
        raise TypeError(f"compared with an int, not {type(operand).__name__}")
    made.key = c.key
    made.end = c.end
    made.target = c.target
    made.result = result
    made.operand = operand
    return made


@cython.final
cdef class Txn:
    """If all compares hold, the success operations, else the failure ones; all in one revision."""

    def __init__(self, compare=(), success=(), failure=()):
        self.compare = list(compare)
        self.success = list(success)
        self.failure = list(failure)

    def __repr__(self):
        return f"Txn({self.compare!r}, {self.success!r}, {self.failure!r})"


cdef bint op_grows(object op):
    """Whether it may make the store larger: what a full one refuses."""
    if isinstance(op, Txn):
        return ops_grow((<Txn>op).success) or ops_grow((<Txn>op).failure)
    return isinstance(op, (Put, LeaseGrant))


cdef bint ops_grow(object ops):
    for op in ops:
        if op_grows(op):
            return True
    return False
