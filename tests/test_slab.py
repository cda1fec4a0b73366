# SPDX-License-Identifier: Apache-2.0
"""The slab allocator against a dict of what was handed out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcore._slab import MemoryLimit, SlabProbe

CLASSES = 88


def test_classes_round_up_by_an_eighth_at_most():
    sizes = [SlabProbe.class_bytes(c) for c in range(CLASSES)]
    assert sizes == sorted(set(sizes)) and sizes[0] == 64 and sizes[-1] == 512 * 1024
    assert all(size % 64 == 0 for size in sizes)
    assert all(b <= a + max(64, a // 8) for a, b in zip(sizes, sizes[1:], strict=False))


@given(st.integers(1, 512 * 1024))
def test_class_of_is_the_smallest_that_fits(nbytes):
    c = SlabProbe.class_of(nbytes)
    assert SlabProbe.class_bytes(c) >= nbytes
    assert c == 0 or SlabProbe.class_bytes(c - 1) < nbytes


steps = st.lists(st.tuples(st.sampled_from([0, 1, 5, 15, 16, 40, 63, 64, 70, 87]),
                           st.integers(-40, 60), st.integers(0, 1 << 30)), max_size=40)


@settings(deadline=None, max_examples=60)
@given(steps)
def test_blocks_never_overlap_and_totals_add_up(plan):
    """Positive n allocates, negative frees; each block is filled and must still hold its bytes."""
    memory = MemoryLimit(1 << 40)
    slab = SlabProbe(memory)
    live = {}
    for c, n, pick in plan:
        size = SlabProbe.class_bytes(c)
        for i in range(min(n, 20 if size > 65536 else 60)):
            slot = slab.alloc(c)
            assert slot and slot not in live
            live[slot] = (c, (pick + i) % 256)
            slab.fill(slot, c, live[slot][1])
        for i in range(-n):
            if live:
                slot = sorted(live)[(pick + i) % len(live)]
                c_old, fill = live.pop(slot)
                assert slab.read(slot, c_old) == bytes([fill]) * SlabProbe.class_bytes(c_old)
                slab.free(slot, c_old)
        slab.check()
        stats = slab.stats()
        assert stats["live_blocks"] == len(live)
        assert stats["live_bytes"] == sum(SlabProbe.class_bytes(c) for c, _ in live.values())
        assert memory.held == stats["chunk_bytes"]
    spans = sorted((slot * 64, slot * 64 + SlabProbe.class_bytes(c))
                   for slot, (c, _) in live.items())
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    for slot, (c, fill) in live.items():
        assert slab.read(slot, c) == bytes([fill]) * SlabProbe.class_bytes(c)
        slab.free(slot, c)
    slab.check()
    assert slab.stats()["live_blocks"] == 0
    assert memory.held <= 8 * 262144          # only the warm chunks are kept


def test_memory_goes_back_and_addresses_are_reused():
    memory = MemoryLimit(1 << 40)
    slab = SlabProbe(memory)
    peaks = set()
    for c in (0, 30, 87, 0, 30, 87):
        slots = [slab.alloc(c) for _ in range(40 * 262144 // SlabProbe.class_bytes(c))]
        assert memory.held >= 40 * 262144
        for slot in slots:
            slab.free(slot, c)
        slab.check()
        assert memory.held <= 8 * 262144
        peaks.add(slab.stats()["chunk_count"])
    assert max(peaks) <= 1 + 40 + 40 + 8      # classes up to 64 KiB share chunks, spans their own


def test_refused_memory_is_slot_zero_and_changes_nothing():
    memory = MemoryLimit(262144)
    slab = SlabProbe(memory)
    per_chunk = 262144 // 64
    slots = [slab.alloc(0) for _ in range(per_chunk)]
    assert all(slots) and slab.alloc(0) == 0 and slab.alloc(87) == 0
    slab.check()
    assert memory.held == 262144
    memory.limit = 1 << 30
    assert slab.alloc(0) and slab.alloc(87)
    slab.refuse_after(2)
    assert slab.alloc(3) and not slab.alloc(3) and slab.alloc(3)
    slab.check()


def test_memory_is_returned_when_the_slab_goes():
    memory = MemoryLimit(1 << 40)
    slab = SlabProbe(memory)
    slab.alloc(0)
    assert memory.held
    del slab
    assert memory.held == 0


@pytest.mark.parametrize("c", [0, 87])
def test_freed_blocks_come_back_first(c):
    slab = SlabProbe()
    a, b = slab.alloc(c), slab.alloc(c)
    slab.free(a, c)
    assert slab.alloc(c) == a and b
