// SPDX-License-Identifier: Apache-2.0
//
// The protocol of recorded EPT and guest walks (tests/oracles/walk_protocol.h) over the engine's
// own walkers: the recorded EPT is EPT12, the recorded machine is L1's memory. No PML: the engine
// offers L1 none.

#ifndef TDP_TESTS_ORACLES_ENGINE_WALK_PROTOCOL_H_
#define TDP_TESTS_ORACLES_ENGINE_WALK_PROTOCOL_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/mmu/guest_walker.h"
#include "tdp/mmu/nested_ept_walker.h"

namespace tdp::oracles {

// A memory for the walkers: every frame exists and reads as zeroes at first. Notes every entry that
// it was asked to write.
class WalkedMemory {
 public:
  std::byte* Reach(Gpa gpa, bool to_write, GuestWalkOutcome& why);
  void Store(Gpa gpa, uint64_t value);
  void StorePage(Gpa gpa, const char* bytes);
  void Wrote(Gpa) {}
  // The entry of the last `Reach` is one of 4 bytes.
  void NarrowLast() { writes_[last_] = sizeof(uint32_t); }
  // " ad ADDRESS=NEW…" for the entries written since the last call, by address.
  std::string TakeWrites();
  void Clear();

 private:
  struct alignas(64) Page {
    std::byte bytes[kPageSize] = {};
  };
  std::byte* At(Gpa gpa);

  absl::flat_hash_map<uint64_t, std::unique_ptr<Page>> pages_;
  std::map<uint64_t, size_t> writes_;  // address of an entry to its size
  uint64_t last_ = 0;
};

class EngineWalkProtocol {
 public:
  EngineWalkProtocol() { Reset(); }

  // The answer to a line, empty if the line asks for none. InvalidArgument for a line that does not
  // follow the protocol.
  absl::StatusOr<std::string> Answer(std::string_view line);

  // Puts pages into memory: of each, 8 bytes of address and 4096 of content.
  void LoadRecords(std::string_view records);

 private:
  using Words = std::vector<std::string_view>;

  void Reset();
  absl::StatusOr<bool> Set(const Words& words);
  bool SetControl(std::string_view name, uint64_t value);
  absl::Status LoadRecordFile(const std::string& path);
  std::string Walk(const Words& words);
  std::string Linear(const Words& words);
  std::string NestedLinear(Gva gva, GuestAccess access);
  std::string LoadRoots();

  WalkedMemory memory_;
  GuestControls controls_;
  GuestRoots roots_;
  EntryRules rules_;
  Eptp eptp_;
  bool ept_ = true;
  bool ac_ = false;
};

}  // namespace tdp::oracles

#endif  // TDP_TESTS_ORACLES_ENGINE_WALK_PROTOCOL_H_
