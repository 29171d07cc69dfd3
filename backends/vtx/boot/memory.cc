// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A first-fit allocator of pages over one bitmap.

#include "loader.h"

namespace boot {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMaxPages = 1 << 17;  // 512 MiB

uint64_t used[kMaxPages / 64];
uint64_t first_page;
uint64_t page_count;
uint32_t memory_lock = 0;

bool IsUsed(uint64_t page) { return (used[page / 64] >> (page % 64) & 1) != 0; }
void Mark(uint64_t page) { used[page / 64] |= uint64_t{1} << (page % 64); }
void Unmark(uint64_t page) { used[page / 64] &= ~(uint64_t{1} << (page % 64)); }

// Returns the first page of a free run of `count`; `page_count` if there is none.
uint64_t FindRun(uint64_t count) {
  uint64_t run = 0;
  for (uint64_t page = 0; page < page_count; ++page) {
    if (page % 64 == 0 && used[page / 64] == ~uint64_t{0}) {
      run = 0;
      page += 63;
      continue;
    }
    run = IsUsed(page) ? 0 : run + 1;
    if (run == count) return page + 1 - count;
  }
  return page_count;
}

void Zero(uint64_t address, uint64_t bytes) {
  uint64_t words = bytes / 8;
  asm volatile("rep stosq" : "+D"(address), "+c"(words) : "a"(0) : "memory");
}

class Guard {
 public:
  Guard() {
    while (__atomic_exchange_n(&memory_lock, 1, __ATOMIC_ACQUIRE) != 0) Pause();
  }
  ~Guard() { __atomic_store_n(&memory_lock, 0, __ATOMIC_RELEASE); }
};

}  // namespace

void InitMemory(uint64_t start, uint64_t end) {
  first_page = (start + kPage - 1) / kPage;
  page_count = end / kPage - first_page;
  if (page_count > kMaxPages) page_count = kMaxPages;
}

// RAM starts out as zeros and `FreePages` leaves zeros behind.
uint64_t AllocatePages(uint64_t size) {
  const uint64_t count = (size + kPage - 1) / kPage;
  Guard guard;
  const uint64_t start = FindRun(count);
  if (count == 0 || start == page_count) return 0;
  for (uint64_t page = start; page < start + count; ++page) Mark(page);
  return (first_page + start) * kPage;
}

void FreePages(uint64_t start, uint64_t size) {
  Guard guard;
  for (uint64_t address = start; address < start + size; address += kPage) {
    const uint64_t page = address / kPage - first_page;
    if (address / kPage < first_page || page >= page_count || !IsUsed(page)) continue;
    Zero(address, kPage);
    Unmark(page);
  }
}

}  // namespace boot

// The compiler calls these for copies and clears of its own.
extern "C" void* memset(void* to, int byte, size_t size) {
  void* start = to;
  asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
  return start;
}

extern "C" void* memcpy(void* to, const void* from, size_t size) {
  void* start = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
  return start;
}
