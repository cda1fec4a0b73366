/* SPDX-License-Identifier: Apache-2.0
 *
 * The structs of the index's blocks, pinned to the byte tables of docs/index-layout.md.
 * Header only.  The columns behind a node's head have no struct: _node.pxd computes where they are.
 */
#ifndef KVCORE_NODE_H
#define KVCORE_NODE_H
#include <stddef.h>
#include <stdint.h>

typedef struct Node {
    uint64_t epoch;
    uint16_t n;
    uint16_t cap;
    uint16_t live;
    uint8_t kind;
    uint8_t prefix_len;
    uint32_t heap_used;
    uint32_t heap_cap;
    uint32_t heap_dead;
    uint32_t block_class;
} Node;
_Static_assert(sizeof(Node) == 32, "node head is 32 bytes");
_Static_assert(offsetof(Node, kind) == 14 && offsetof(Node, prefix_len) == 15, "node head bytes");
_Static_assert(offsetof(Node, heap_used) == 16 && offsetof(Node, block_class) == 28,
               "node head words");

typedef struct LeafRec {
    uint64_t pos;
    int64_t create;
    uint32_t version;
    uint32_t len;
    uint32_t sub;
    uint32_t older;
} LeafRec;
_Static_assert(sizeof(LeafRec) == 32, "leaf record is 32 bytes");

typedef struct LeafExt {
    int64_t lease;
    uint32_t version_high;
    uint32_t zero;
} LeafExt;
_Static_assert(sizeof(LeafExt) == 16, "ext record is 16 bytes");

typedef struct ChainRec {
    uint64_t epoch;
    int64_t mod;
    int64_t create;
    int64_t version;
    int64_t lease;
    uint64_t pos;
    uint32_t len;
    uint32_t sub;
    uint32_t older;
    uint32_t zero;
} ChainRec;
_Static_assert(sizeof(ChainRec) == 64, "chain record is 64 bytes");
_Static_assert(offsetof(ChainRec, pos) == 40 && offsetof(ChainRec, older) == 56,
               "chain record words");

typedef struct TailBlock {
    uint64_t epoch;
    uint32_t len;
    uint32_t zero;
    uint8_t bytes[];
} TailBlock;
_Static_assert(sizeof(TailBlock) == 16, "tail block head is 16 bytes");

#endif
