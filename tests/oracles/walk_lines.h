// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These are the lines of the protocol of recorded EPT and guest walks, whoever answers:
//
//   reset | maxpa N | mem HPA V | loadrec FILE | eptp V | cap1g 0/1 | adv 0/1 | pml 0/1 | ept 0/1
//   cr0 V | cr3 V | cr4 V | efer V | ac 0/1 | pkru V | pkrs V
//   walk GPA r|w|x LINEAR_VALID IS_PAGE_WALK -> ok HPA mt M ipat I lvl L | violation Q | misconfig
//   lin GVA r|w|x USER -> ok HPA | pf ERR | noncanonical | violation Q gpa GPA | misconfig gpa GPA
//   loadpdptr -> ok | gp | violation …
//   chkeptp V -> valid | invalid
//
// Answers end in ` ad ADDRESS=NEW…` for paging-structure writes and ` pml GPA…` for the log.
// Numbers are hexadecimal but maxpa.

#ifndef TDP_TESTS_ORACLES_WALK_LINES_H_
#define TDP_TESTS_ORACLES_WALK_LINES_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/mmu/format/eptp.h"

namespace tdp::oracles {

// Is a `walk` line: one guest-physical address.
struct WalkLine {
  uint64_t gpa = 0;
  char access = 'r';  // r, w or x
  bool linear = false;
  bool guest_table = false;
};

// Is a `lin` line: one linear address.
struct LinearLine {
  uint64_t gva = 0;
  char access = 'r';
  bool user = false;
};

class WalkLines {
 public:
  virtual ~WalkLines() = default;

  // Returns the answer to a line, empty if the line asks for none. InvalidArgument for a line that
  // does not follow the protocol, NotFound for a file that is not there.
  absl::StatusOr<std::string> Answer(std::string_view line);

  // Does what `loadrec` does with a file's content: of each page 8 bytes of address and 4096 of
  // bytes.
  void LoadRecords(std::string_view records);

 protected:
  // Does what `reset` says.
  virtual void Reset() = 0;
  virtual void StoreWord(uint64_t address, uint64_t value) = 0;
  virtual void StorePage(uint64_t address, const char* bytes) = 0;
  // Changes a setting; false if there is none of this name.
  virtual bool Set(std::string_view name, uint64_t value) = 0;
  virtual std::string Walk(const WalkLine& line) = 0;
  virtual std::string Linear(const LinearLine& line) = 0;
  virtual std::string LoadPdptes() = 0;
  virtual bool IsValidEptp(Eptp eptp) = 0;
  // Returns what was written since the last call.
  virtual std::string Tail() = 0;

 private:
  using Words = std::vector<std::string_view>;

  absl::StatusOr<bool> SetLine(const Words& words);
  absl::Status LoadRecordFile(const std::string& path);
  // Adds what comes after the answer, which is known only once that has been worked out.
  std::string WithTail(std::string answer);
  absl::StatusOr<std::string> Ask(const Words& words, std::string_view line);
};

}  // namespace tdp::oracles

#endif  // TDP_TESTS_ORACLES_WALK_LINES_H_
