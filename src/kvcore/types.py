# SPDX-License-Identifier: Apache-2.0
"""Small frozen answers of the cold verbs: Status and HashResult.

May not know: any module above errors.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HashResult", "Status"]


@dataclass(frozen=True, slots=True)
class HashResult:
    """A checksum of the store; comparable with others of equal compact_revision."""

    hash: int
    """CRC-32C, as etcd's HashKV computes it."""
    compact_revision: int
    revision: int
    """The revision hashed."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a store has to say about itself."""

    path: str
    """Directory; "" in memory."""
    sync: str
    revision: int
    compact_revision: int
    keys: int
    """Live keys at the newest revision."""
    versions: int
    """All versions and tombstones in the index."""
    order: int
    depth: int
    """Levels of the index, leaves included."""
    index_bytes: int
    """Memory held by the index."""
    index_live_bytes: int
    """Of it, in use."""
    log_bytes: int
    """Bytes written to the log since it was opened."""
    segments: int
    segment_bytes: int
    used_bytes: int
    """Of segments: in use, made ready, or kept to be written again."""
    live_bytes: int
    """Cells (key, value, 13 bytes) of newest versions, when the store was last counted."""
    history_bytes: int
    """Cells of older versions, which compaction would let go, then."""
    garbage_bytes: int
    """The rest of the segments that were counted: what moving and retiring gives back."""
    counted_revision: int
    """When that was: with each checkpoint; in memory when much was compacted. 0: not yet."""
    moved_bytes: int
    """Written since the open to empty segments."""
    checkpoint_bytes: int
    """Written since the open as checkpoints."""
    zeroed_bytes: int
    """Zeros written ahead since the open, so that a sync pays for no new block."""
    write_amplification: float
    """Log, moves and checkpoints over what callers wrote to the log; without zeros."""
    retired_segments: int
    """Segments given back since the open."""
    pinned_bytes: int
    """Of these, still there for results that were not read yet."""
    alarms: tuple[str, ...]
    applied_index: int
    """Log index of the last command applied."""
    snapshots: int
    """Snapshots open now."""
    dead_blocks: int
    """Index blocks kept only for open snapshots."""
    compacting: bool
    """Whether a compaction's sweep is under way."""
    checkpoint_number: int
    """The newest checkpoint; 0: none."""
    checkpoint_revision: int
    batches: int
    """Batches committed since the open."""
    commands: int
    syncs: int
    poisoned: bool
    """Whether the log failed; then nothing is written any more."""
    leases: int
    leased_keys: int
    watchers: int
    watch_events: int
    """Events since the open that somebody watched."""
    watch_bytes: int
    """Memory of the watch ring and its index."""
    watchers_behind: int
    """Times a watch had to go back to history."""
    background_status: int
    """First failure of background work (a native status); 0: none."""
    fill: float
    """Average fill of the index's leaves, 0..1."""
    format: int
    """Disk format."""
