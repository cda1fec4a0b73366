// SPDX-License-Identifier: Apache-2.0
// absl::btree_map<std::string, int64_t>, asked what bench/peers/maps.py asks: PROGRAM KEYS COUNT.

#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/base/config.h"
#include "absl/container/btree_map.h"

using Map = absl::btree_map<std::string, int64_t>;
using Keys = std::vector<std::string>;

constexpr uint64_t kStride = 2654435761;
constexpr size_t kProbes = 100000, kScans = 200, kEntries = 500;

static double now_ns() {
  using namespace std::chrono;
  return duration<double, std::nano>(steady_clock::now().time_since_epoch()).count();
}

static double insert_all(Map& map, const Keys& keys) {
  int64_t revision = 0;
  double began = now_ns();
  for (const std::string& key : keys) map.emplace(key, ++revision);
  return (now_ns() - began) / keys.size();
}

static uint32_t crc32(uint32_t crc, const std::string& text) {  // zlib's
  crc = ~crc;
  for (unsigned char c : text) {
    crc ^= c;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0xEDB88320u & -(crc & 1));
  }
  return ~crc;
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  Keys keys;
  std::ifstream file(argv[1]);
  size_t count = strtoul(argv[2], nullptr, 10);
  for (std::string line; keys.size() < count && std::getline(file, line);) keys.push_back(line);
  if (keys.size() != count || !count) return 1;
  Keys ordered = keys;
  std::sort(ordered.begin(), ordered.end());

  double sorted_ns;
  {
    Map map;
    sorted_ns = insert_all(map, ordered);
  }
  size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
  Map map;
  double random_ns = insert_all(map, keys);
  double bytes = double(mallinfo2().uordblks + mallinfo2().hblkhd - before) / count;

  size_t probes = std::min(kProbes, count);
  std::vector<std::string> wanted;
  for (size_t i = 0; i < probes; i++) wanted.push_back(keys[i * kStride % count]);
  int64_t seen = 0;
  double began = now_ns();
  for (const std::string& key : wanted) seen += map.find(key)->second;
  double get_ns = (now_ns() - began) / probes;
  if (!seen) return 1;

  size_t scans = std::min(kScans, count);
  int64_t sum = 0;
  began = now_ns();
  for (size_t i = 0; i < scans; i++) {
    auto at = map.lower_bound(ordered[i * kStride % count]);
    for (size_t n = 0; n < kEntries && at != map.end(); n++, ++at) sum += at->second;
  }
  double scan_us = (now_ns() - began) / scans / 1e3;

  uint32_t crc = 0;
  for (const auto& entry : map) crc = crc32(crc, entry.first + "\n");
  printf("{\"version\": \"Abseil %d.%d, g++ %s\", \"insert_random\": %.1f, "
         "\"insert_sorted\": %.1f, \"get\": %.1f, \"scan\": %.2f, \"bytes\": %.1f, "
         "\"checksum\": %u, \"sum\": %lld}\n",
         ABSL_LTS_RELEASE_VERSION, ABSL_LTS_RELEASE_PATCH_LEVEL, __VERSION__, random_ns, sorted_ns,
         get_ns, scan_us, bytes, crc, (long long)sum);
}
