// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This file is compiled without -fsanitize=thread, as the standard library is: nothing here is told
// to itself.

#include "tests/lines/access_record.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>

#include "tdp/judge/tsan_calls.h"

namespace tdp::lines {
namespace {

constexpr uintptr_t kLineBytes = 64;

thread_local AccessRecord* g_record = nullptr;

}  // namespace

void AccessRecord::Note(uintptr_t address, size_t size, bool is_store) {
  for (uint64_t word = address / 8; word <= (address + size - 1) / 8; ++word) {
    size_t at = (word * 0x9e3779b97f4a7c15u) >> 44;
    while (words_[at] != 0 && (words_[at] & ~kStored) != word * 2) at = (at + 1) % kWords;
    if (words_[at] == 0 && ++count_ == kWords / 2) {
      std::fputs("the record of a thread is full\n", stderr);
      std::abort();
    }
    words_[at] |= word * 2 | (is_store ? kStored : 0);
  }
}

Recording::Recording(AccessRecord& record) { g_record = &record; }
Recording::~Recording() { g_record = nullptr; }

void NoteStore(const void* p, size_t size) {
  if (g_record != nullptr) g_record->Note(reinterpret_cast<uintptr_t>(p), size, true);
}

void Names::Add(std::string name, const void* begin, size_t size) {
  ranges_.push_back({reinterpret_cast<uintptr_t>(begin), size, std::move(name)});
}

std::string Names::Of(uintptr_t address) const {
  for (auto range = ranges_.rbegin(); range != ranges_.rend(); ++range) {
    if (address - range->begin < range->size) return range->name;
  }
  char text[32];
  std::snprintf(text, sizeof(text), "0x%zx", static_cast<size_t>(address));
  return text;
}

SharedLines FindSharedLines(const std::vector<AccessRecord>& records, const Names& names) {
  struct Line {
    std::set<size_t> readers;
    std::set<size_t> writers;
    std::set<uintptr_t> stored;
  };
  std::map<uintptr_t, Line> lines;
  for (size_t thread = 0; thread < records.size(); ++thread) {
    records[thread].ForEachWord([&](uintptr_t address, bool is_stored) {
      Line& line = lines[address / kLineBytes];
      line.readers.insert(thread);
      if (!is_stored) return;
      line.writers.insert(thread);
      line.stored.insert(address);
    });
  }
  SharedLines shared;
  for (const auto& [number, line] : lines) {
    if (line.writers.empty() || line.readers.size() < 2) continue;
    std::set<std::string> stored;
    for (const uintptr_t address : line.stored) stored.insert(names.Of(address));
    std::string text;
    for (const std::string& name : stored) text += (text.empty() ? "" : ", ") + name;
    (line.writers.size() > 1 ? shared.written_by_several : shared.written_by_one).insert(text);
  }
  return shared;
}

std::ostream& operator<<(std::ostream& out, const SharedLines& lines) {
  for (const std::string& line : lines.written_by_several) out << "\n  by several: " << line;
  for (const std::string& line : lines.written_by_one) out << "\n  by one, for others: " << line;
  return out;
}

}  // namespace tdp::lines

// gcc and clang call these in code that is compiled with -fsanitize=thread, in place of that
// sanitizer's own runtime.

namespace tdp::lines {

static inline void NoteAccess(const volatile void* p, size_t size, bool is_store) {
  if (g_record != nullptr && size != 0) {
    g_record->Note(reinterpret_cast<uintptr_t>(p), size, is_store);
  }
}

}  // namespace tdp::lines

#define TDP_ON_LOAD(p, size) tdp::lines::NoteAccess(p, size, false)
#define TDP_ON_STORE(p, size) tdp::lines::NoteAccess(p, size, true)

extern "C" {

TDP_TSAN_LOADS_AND_STORES(TDP_ON_LOAD, TDP_ON_STORE)
// These tell too little of mutexes: traced_mutex.h tells more.
TDP_TSAN_FENCES_AND_LOCKS

void __tsan_func_entry(void*) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void** p, void*) { TDP_ON_STORE(p, sizeof(*p)); }
void __tsan_vptr_read(void** p) { TDP_ON_LOAD(p, sizeof(*p)); }
void __tsan_read_range(void* p, size_t size) { TDP_ON_LOAD(p, size); }
void __tsan_write_range(void* p, size_t size) { TDP_ON_STORE(p, size); }

// The linker leads these calls here (--wrap); clang makes those of the second kind itself.
void* __real_memcpy(void* to, const void* from, size_t size);
void* __real_memmove(void* to, const void* from, size_t size);
void* __real_memset(void* to, int value, size_t size);
void* __wrap_memcpy(void* to, const void* from, size_t size) {
  TDP_ON_STORE(to, size);
  TDP_ON_LOAD(from, size);
  return __real_memcpy(to, from, size);
}
void* __wrap_memmove(void* to, const void* from, size_t size) {
  TDP_ON_STORE(to, size);
  TDP_ON_LOAD(from, size);
  return __real_memmove(to, from, size);
}
void* __wrap_memset(void* to, int value, size_t size) {
  TDP_ON_STORE(to, size);
  return __real_memset(to, value, size);
}
void* __tsan_memcpy(void* to, const void* from, size_t size) {
  return __wrap_memcpy(to, from, size);
}
void* __tsan_memmove(void* to, const void* from, size_t size) {
  return __wrap_memmove(to, from, size);
}
void* __tsan_memset(void* to, int value, size_t size) { return __wrap_memset(to, value, size); }

}  // extern "C"
