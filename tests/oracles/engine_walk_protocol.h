// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The engine's own walkers answer recorded EPT and guest walks (tests/oracles/walk_lines.h): the
// recorded EPT is EPT12, the recorded machine is L1's memory. There is no PML: the engine offers L1
// none.

#ifndef TDP_TESTS_ORACLES_ENGINE_WALK_PROTOCOL_H_
#define TDP_TESTS_ORACLES_ENGINE_WALK_PROTOCOL_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "tdp/mmu/guest/guest_walker.h"
#include "tdp/mmu/guest/nested_ept_walker.h"
#include "tests/oracles/walk_lines.h"

namespace tdp::oracles {

// Is a memory for the walkers: every frame exists and reads as zeroes at first. Notes every entry
// that it was asked to write.
class WalkedMemory {
 public:
  std::byte* Reach(Gpa gpa, bool to_write, GuestWalkOutcome& why);
  void Store(Gpa gpa, uint64_t value);
  void StorePage(Gpa gpa, const char* bytes);
  void Wrote(Gpa) {}
  void AskAgain(Gpa) {}
  // Notes that the entry of the last `Reach` is one of 4 bytes.
  void NarrowLast() { writes_[last_] = sizeof(uint32_t); }
  // Returns " ad ADDRESS=NEW…" for the entries written since the last call, by address.
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

class EngineWalkProtocol : public WalkLines {
 public:
  EngineWalkProtocol() { EngineWalkProtocol::Reset(); }

 private:
  void Reset() override;
  void StoreWord(uint64_t address, uint64_t value) override { memory_.Store(Gpa(address), value); }
  void StorePage(uint64_t address, const char* bytes) override {
    memory_.StorePage(Gpa(address), bytes);
  }
  bool Set(std::string_view name, uint64_t value) override;
  std::string Walk(const WalkLine& line) override;
  std::string Linear(const LinearLine& line) override;
  std::string LoadPdptes() override;
  bool IsValidEptp(Eptp eptp) override;
  std::string Tail() override { return memory_.TakeWrites(); }

  std::string NestedLinear(Gva gva, GuestAccess access);

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
