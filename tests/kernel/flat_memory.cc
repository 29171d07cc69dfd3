// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/flat_memory.h"

#include <algorithm>

#include "tests/kernel/paging_shape.h"

namespace tdp::kernel {
namespace {

constexpr uint64_t kFlags = kAccessed | kDirty;

// Returns the part of `word` that `bytes` at `offset` in it name.
uint64_t Part(uint64_t word, uint64_t offset, unsigned bytes) {
  word >>= 8 * offset;
  return bytes >= 8 ? word : word & ((uint64_t{1} << 8 * bytes) - 1);
}

}  // namespace

void FlatMemory::SetTable(uint64_t gpa, bool is_table) {
  if (is_table) {
    tables_.insert(gpa >> 12);
    return;
  }
  tables_.erase(gpa >> 12);
  absl::erase_if(entries_, [&](const auto& entry) { return entry.first >> 12 == gpa >> 12; });
}

uint64_t FlatMemory::Load(uint64_t gpa, unsigned bytes) const {
  const auto found = words_.find(WordAt(gpa));
  return found == words_.end() ? 0 : Part(found->second, gpa - WordAt(gpa), bytes);
}

FlatMemory::Entry& FlatMemory::EntryOf(uint64_t gpa) {
  Entry& entry = entries_[gpa];
  if (entry.versions.empty()) entry.versions.push_back({0, Load(gpa, entry_bytes_) & ~kFlags});
  return entry;
}

void FlatMemory::Store(Time now, uint64_t gpa, unsigned bytes, uint64_t value) {
  const uint64_t at = WordAt(gpa);
  if (IsTable(gpa)) EntryOf(at);
  uint64_t& word = words_[at];
  const uint64_t offset = 8 * (gpa - at);
  const uint64_t mask = bytes >= 8 ? ~uint64_t{0} : (uint64_t{1} << 8 * bytes) - 1;
  word = (word & ~(mask << offset)) | (value & mask) << offset;
  if (IsTable(gpa)) StoreEntry(now, at, word);
}

void FlatMemory::StoreEntry(Time now, uint64_t at, uint64_t after) {
  Entry& entry = EntryOf(at);
  if (entry.versions.back().value != (after & ~kFlags)) {
    entry.versions.push_back({now, after & ~kFlags});
  }
  if ((after & kAccessed) == 0) entry.accessed_cleared = now;
  if ((after & kDirty) == 0) entry.dirty_cleared = now;
  entry.may_be_dirty = false;
}

bool FlatMemory::Matches(uint64_t gpa, unsigned bytes, uint64_t actual) const {
  const uint64_t expected = Load(gpa, bytes);
  if (actual == expected) return true;
  const bool low_half = gpa == WordAt(gpa);
  if (!IsTable(gpa) || !low_half || (expected & kPresent) == 0) return false;
  if (((actual ^ expected) & ~kFlags) != 0 || (expected & ~actual) != 0) return false;
  const auto entry = entries_.find(gpa);
  const bool may_be_dirty = entry != entries_.end() && entry->second.may_be_dirty;
  return may_be_dirty || ((actual ^ expected) & kDirty) == 0;
}

void FlatMemory::Adopt(uint64_t gpa, unsigned bytes, uint64_t actual) {
  const uint64_t set = actual & ~Load(gpa, bytes);
  if (set != 0) words_[WordAt(gpa)] |= set << 8 * (gpa - WordAt(gpa));
}

Time FlatMemory::AccessedCleared(uint64_t gpa) const {
  const auto entry = entries_.find(gpa);
  return entry == entries_.end() ? 0 : entry->second.accessed_cleared;
}

Time FlatMemory::DirtyCleared(uint64_t gpa) const {
  const auto entry = entries_.find(gpa);
  return entry == entries_.end() ? 0 : entry->second.dirty_cleared;
}

void FlatMemory::NoteWriteThrough(uint64_t gpa) { EntryOf(gpa).may_be_dirty = true; }

void FlatMemory::Forget(Time time) {
  for (auto& [at, entry] : entries_) {
    auto last = entry.versions.begin();
    while (last + 1 != entry.versions.end() && (last + 1)->start <= time) ++last;
    entry.versions.erase(entry.versions.begin(), last);
  }
}

std::vector<uint64_t> FlatMemory::Words() const {
  std::vector<uint64_t> words;
  for (const auto& [at, value] : words_) words.push_back(at);
  std::sort(words.begin(), words.end());
  return words;
}

}  // namespace tdp::kernel
