// SPDX-License-Identifier: Apache-2.0
//
// The protocol of recorded EPT and guest walks over the software CPU.
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

#ifndef TDP_TESTS_ORACLES_WALK_PROTOCOL_H_
#define TDP_TESTS_ORACLES_WALK_PROTOCOL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/sim/cpu.h"
#include "tests/oracles/sparse_memory.h"

namespace tdp::oracles {

class WalkProtocol {
 public:
  WalkProtocol() { Reset(); }

  // The answer to a line, empty if the line asks for none. InvalidArgument for a line that does not
  // follow the protocol.
  absl::StatusOr<std::string> Answer(std::string_view line);

  // What `loadrec` does with a file's content.
  void LoadRecords(std::string_view records);

 private:
  using Words = std::vector<std::string_view>;

  void Reset();
  // A setting's line; false if it is none.
  absl::StatusOr<bool> Set(const Words& words);
  absl::Status LoadRecordFile(const std::string& path);
  void Configure();
  std::string Walk(const Words& words);
  std::string Linear(const Words& words);
  std::string LoadPdptes();
  std::string Tail();
  std::string EventText(sim::Event event, bool with_gpa) const;

  SparseMemory memory_;
  std::unique_ptr<sim::Cpu> cpu_;
  sim::CpuFeatures features_;
  sim::Controls controls_;
  sim::Registers registers_;
  Eptp eptp_;
  bool stale_ = true;  // settings changed since the CPU was configured
};

}  // namespace tdp::oracles

#endif  // TDP_TESTS_ORACLES_WALK_PROTOCOL_H_
