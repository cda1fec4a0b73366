// SPDX-License-Identifier: Apache-2.0
// github.com/google/btree, degree 32, pointer items as etcd has them, asked what
// bench/peers/maps.py asks: PROGRAM KEYS COUNT.
package main

import (
	"bytes"
	"encoding/json"
	"hash/crc32"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"time"

	"github.com/google/btree"
)

const (
	degree  = 32
	stride  = 2654435761
	probes  = 100000
	scans   = 200
	entries = 500
)

type item struct {
	key      []byte
	revision int64
}

type tree = btree.BTreeG[*item]

func newTree() *tree {
	return btree.NewG(degree, func(a, b *item) bool { return bytes.Compare(a.key, b.key) < 0 })
}

// The item and its copy of the key are made here, as a store must make them.
func insertAll(t *tree, keys [][]byte) float64 {
	began := time.Now()
	for i, key := range keys {
		t.ReplaceOrInsert(&item{append([]byte(nil), key...), int64(i + 1)})
	}
	return float64(time.Since(began).Nanoseconds()) / float64(len(keys))
}

func heap() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func version() string {
	name := runtime.Version()
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			name = dep.Path + " " + dep.Version + ", " + name
		}
	}
	return name
}

func main() {
	data, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	keys := bytes.SplitN(data, []byte("\n"), count+1)[:count]
	ordered := append([][]byte(nil), keys...)
	sort.Slice(ordered, func(i, j int) bool { return bytes.Compare(ordered[i], ordered[j]) < 0 })

	answer := map[string]any{"version": version()}
	answer["insert_sorted"] = insertAll(newTree(), ordered)
	before := heap()
	t := newTree()
	answer["insert_random"] = insertAll(t, keys)
	answer["bytes"] = float64(heap()-before) / float64(count)

	wanted := make([]*item, min(probes, count))
	for i := range wanted {
		wanted[i] = &item{key: keys[i*stride%count]}
	}
	var seen int64
	began := time.Now()
	for _, probe := range wanted {
		found, _ := t.Get(probe)
		seen += found.revision
	}
	answer["get"] = float64(time.Since(began).Nanoseconds()) / float64(len(wanted))
	if seen == 0 {
		panic("nothing found")
	}

	var sum int64
	rounds := min(scans, count)
	began = time.Now()
	for i := 0; i < rounds; i++ {
		left := entries
		t.AscendGreaterOrEqual(&item{key: ordered[i*stride%count]}, func(found *item) bool {
			sum += found.revision
			left--
			return left > 0
		})
	}
	answer["scan"] = float64(time.Since(began).Nanoseconds()) / float64(rounds) / 1e3
	answer["sum"] = sum

	crc := crc32.NewIEEE()
	t.Ascend(func(found *item) bool {
		crc.Write(found.key)
		crc.Write([]byte("\n"))
		return true
	})
	answer["checksum"] = crc.Sum32()
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		panic(err)
	}
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}
