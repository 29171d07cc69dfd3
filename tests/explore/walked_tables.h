// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Nobody but the VMM walks these tables of a guest (`Vcpu::WalkGuest`). The tests ask what a walk
// may answer, and which memory it must not write.

#ifndef TDP_TESTS_EXPLORE_WALKED_TABLES_H_
#define TDP_TESTS_EXPLORE_WALKED_TABLES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tdp/base/address.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/vcpu.h"
#include "tests/explore/explored_host.h"
#include "tests/explore/flat_model.h"

namespace tdp::explore {

class World;

// Maps two pages of linear memory, each by a table of leaves where operations are at work: one in
// slot 1, which goes, moves, comes back over other memory or is read-only, the other in a frame of
// slot 0 that is zapped and logs. Above both is one table in a frame whose memory the host moves.
class WalkedTables {
 public:
  // Writes the tables into all memory that may stand there.
  explicit WalkedTables(World& world);

  enum class Page : uint8_t { kInSecondSlot, kInFirstSlot };

  // Makes one walk. A wrong answer ends the run.
  void Walk(Vcpu& vcpu, Page page, GuestAccess access);
  // Lets a vCPU of the guest's write another leaf into the table in slot 0, or in slot 1, and back.
  void Rewrite(Vcpu& vcpu, GuestCpu& cpu, Page page);

  // Notes that the frame is taken back: its contents must stay what they are.
  void Guard(Hfn frame);
  // Returns which memory was written that nobody may write; empty if none was.
  std::string Check();

 private:
  // Names an entry of a table, by the page of host memory that has it.
  struct Word {
    HostPageNumber page;
    uint64_t index;
  };
  static constexpr size_t kWords = 12;
  // Keeps a frame that a leaf has, or may have: until then, if it has another by now.
  struct Held {
    uint64_t frame;
    uint64_t until;
  };
  struct Guarded {
    const uint64_t* place;
    uint64_t value;
  };
  using Values = std::array<uint64_t, kWords>;
  static const std::array<Word, kWords> kPlaces;

  uint64_t* PlaceOf(size_t word) const;
  Values ReadAll() const;
  size_t LeafIn(HostPageNumber table) const;
  // Returns whether the leaf of that table had that frame at some moment since.
  bool Holds(HostPageNumber table, uint64_t frame, uint64_t since) const;
  std::string Judge(const Vcpu& vcpu, Page page, const GuestWalk& walk, uint64_t since) const;
  std::string JudgeInSlot(const Vcpu& vcpu, const GuestWalk& walk, uint64_t since) const;
  void TellWritten(const Vcpu& vcpu, const Values& before, uint64_t begun);

  World& world_;
  int walks_ = 0;       // under way
  uint64_t begun_ = 0;  // walks so far
  std::array<std::vector<Held>, kWords> held_;
  std::array<bool, kWords> is_shut_{};  // nobody may write the word, which is this by now
  Values shut_{};
  std::vector<Guarded> guarded_;
};

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_WALKED_TABLES_H_
