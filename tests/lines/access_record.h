// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A record hears what threads load and store from code compiled with -fsanitize=thread.

#ifndef TDP_TESTS_LINES_ACCESS_RECORD_H_
#define TDP_TESTS_LINES_ACCESS_RECORD_H_

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <set>
#include <string>
#include <vector>

namespace tdp::lines {

// Holds the words that one thread has touched.
class AccessRecord {
 public:
  AccessRecord() : words_(kWords) {}

  // Notes a load or a store of `size` bytes at `address`.
  void Note(uintptr_t address, size_t size, bool is_store);

  // Calls `visit(address, is_stored)` for each word, 8 bytes.
  template <typename Visit>
  void ForEachWord(Visit visit) const {
    for (const uint64_t word : words_) {
      if (word != 0) visit(static_cast<uintptr_t>(word & ~kStored) * 4, (word & kStored) != 0);
    }
  }

 private:
  static constexpr size_t kWords = size_t{1} << 20;
  static constexpr uint64_t kStored = 1;

  std::vector<uint64_t> words_;  // a hash: twice the word's number, and whether it was stored to
  size_t count_ = 0;
};

// Lets `record` hear of what its thread does, while one lives.
class Recording {
 public:
  explicit Recording(AccessRecord& record);
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
};

// Notes a store that the compiler does not tell of.
void NoteStore(const void* p, size_t size);

// Says what lies where. Of two ranges that overlap the later one counts.
class Names {
 public:
  void Add(std::string name, const void* begin, size_t size);
  // Returns the name of what `address` is in; where nothing was added, the address.
  std::string Of(uintptr_t address) const;

 private:
  struct Range {
    uintptr_t begin;
    size_t size;
    std::string name;
  };
  std::vector<Range> ranges_;
};

// Names what several threads did to the same cache lines: each line by the names of what was stored
// to in it, "A, B". A name stands for all lines of its kind.
struct SharedLines {
  std::set<std::string> written_by_several;
  std::set<std::string> written_by_one;  // and read by others

  friend std::ostream& operator<<(std::ostream& out, const SharedLines& lines);
};
SharedLines FindSharedLines(const std::vector<AccessRecord>& records, const Names& names);

}  // namespace tdp::lines

#endif  // TDP_TESTS_LINES_ACCESS_RECORD_H_
