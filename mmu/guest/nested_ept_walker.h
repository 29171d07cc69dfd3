// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The engine's walk of EPT12, the EPT that a hypervisor in the guest (L1) keeps for its own guest
// (L2): from an L2 to an L1 guest physical address (SDM vol. 3C, 29.3; KVM's ept_walk_addr).

#ifndef TDP_MMU_GUEST_NESTED_EPT_WALKER_H_
#define TDP_MMU_GUEST_NESTED_EPT_WALKER_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/base/optimization.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/format/exit_qualification.h"
#include "tdp/mmu/guest/guest_walker.h"

namespace tdp {

enum class NestedEptOutcome : uint8_t {
  kMapped,
  kViolation,         // L1 gets exit 48 with `qualification`
  kMisconfiguration,  // L1 gets exit 49
  kNoMemory,          // a table of L1's lies in a hole or in MMIO: at `gpa`
  kNeedsPage,         // a table's page must be asked of the host first: at `gpa`; then walk again
};

// Says what L2 accesses.
struct NestedEptAccess {
  Gpa gpa;                            // of L2
  Access access;                      // kinds of access, for the check and the qualification
  bool linear_address_valid = false;  // it came from a linear access…
  bool final_address = false;         // …to this address itself, not to a table of L2's
  // The rights that L2's own tables give at a final address: they are reported where the CPU that
  // L1 sees offers advanced exit information.
  GuestRights guest_rights;
};

// Says what a walk found. Arrays are by level, filled from the EPTP's levels down to `level`.
struct NestedEptWalk {
  NestedEptOutcome outcome = NestedEptOutcome::kMapped;
  int level = 0;                    // of the leaf, or where the walk ended
  Access rights;                    // the AND over the walk
  Gpa gpa;                          // kMapped: of L1
  ExitQualification qualification;  // kViolation
  bool write_protected_table =
      false;  // an A or D bit was left clear: its table is read-only memory

  std::array<EptEntry, 6> entries{};
  std::array<Gpa, 6> entry_addresses{};
  std::array<Access, 6> table_rights{};

  // Return the rights of the leaf's table and of the table at a level, as `GuestWalk` does.
  Access LeafTableRights() const { return TableRights(level); }
  Access TableRights(int at) const { return table_rights[static_cast<size_t>(at)]; }
};

// Walks EPT12. `rules` are those of the CPU that L1 sees; `Memory` is as for `GuestWalker`, over
// L1's memory.
template <typename Memory>
class NestedEptWalker {
 public:
  NestedEptWalker(Eptp eptp, const EntryRules& rules, Memory& memory)
      : eptp_(eptp), rules_(rules), memory_(memory) {}

  // Translates, checks the access, and with EPTP bit 6 sets A in every entry used and D in the leaf
  // of a write. The EPTP has passed `Eptp::Check`.
  void Walk(const NestedEptAccess& request, NestedEptWalk& walk) {
    walks_left_ = kWalksAtOnce;
    do {
      if (!Descend(request, walk) || !Check(request, walk)) return;
    } while (ABSL_PREDICT_FALSE(eptp_.accessed_dirty() && !SetAccessedAndDirty(request, walk)));
    const Level level(walk.level);
    const uint64_t offset = level.bytes() - 1;
    if (walk.outcome != NestedEptOutcome::kMapped) return;
    walk.gpa = Gpa((walk.entries[At(walk.level)].address().raw() & ~offset) |
                   (request.gpa.raw() & offset));
  }

 private:
  static constexpr size_t At(int level) { return static_cast<size_t>(level); }

  static bool Stop(NestedEptWalk& walk, NestedEptOutcome outcome) {
    walk.outcome = outcome;
    return false;
  }
  bool Violation(const NestedEptAccess& request, Access allowed, NestedEptWalk& walk) const {
    // Without MBEC there is one kind of execution, and no bit for the other.
    if (!rules_.mbec) allowed = allowed.Without(Access::UserExecute());
    walk.qualification = ExitQualification::Make(
        request.access, allowed, request.linear_address_valid, request.final_address);
    if (rules_.capabilities.advanced_exit_information() && request.final_address) {
      const GuestRights rights = request.guest_rights;
      walk.qualification =
          walk.qualification.WithGuestRights(rights.user(), rights.writable(), rights.executable());
    }
    return Stop(walk, NestedEptOutcome::kViolation);
  }
  // Ends the walk where `Reach` could not reach a table, and says why.
  static bool Unreachable(GuestWalkOutcome why, Gpa at, NestedEptWalk& walk) {
    walk.gpa = at;
    return Stop(walk, why == GuestWalkOutcome::kNeedsPage ? NestedEptOutcome::kNeedsPage
                                                          : NestedEptOutcome::kNoMemory);
  }

  bool Descend(const NestedEptAccess& request, NestedEptWalk& walk) {
    walk = NestedEptWalk();
    walk.level = eptp_.levels();
    walk.rights = Access::All();
    Gpa table(eptp_.root().raw());
    const Gfn gfn = Gfn::Of(request.gpa);
    // Bits above what the tables can name lead to nothing. No table is read, so nothing is allowed.
    if (request.gpa.raw() >> eptp_.root_level().above().shift() != 0) {
      return Violation(request, Access::None(), walk);
    }
    for (;; --walk.level) {
      const Level level(walk.level);
      const Gpa address = table + static_cast<uint64_t>(level.IndexOf(gfn)) * sizeof(uint64_t);
      walk.entry_addresses[At(walk.level)] = address;
      walk.table_rights[At(walk.level)] = walk.rights;
      GuestWalkOutcome why = GuestWalkOutcome::kMapped;
      std::byte* place = memory_.Reach(address, false, why);
      if (ABSL_PREDICT_FALSE(place == nullptr)) return Unreachable(why, address, walk);
      const EptEntry entry(Word(place).load(std::memory_order_acquire));
      walk.entries[At(walk.level)] = entry;
      if (!entry.is_present(rules_.mbec)) return Violation(request, Access::None(), walk);
      if (ABSL_PREDICT_FALSE(entry.Check(level, rules_) != EntryDefect::kNone)) {
        return Stop(walk, NestedEptOutcome::kMisconfiguration);
      }
      walk.rights = walk.rights & entry.access();
      if (entry.kind(level) == EntryKind::kLeaf) return true;
      table = Gpa(entry.address().raw());
    }
  }

  bool Check(const NestedEptAccess& request, NestedEptWalk& walk) const {
    if (ABSL_PREDICT_TRUE(walk.rights.Covers(request.access))) return true;
    return Violation(request, walk.rights, walk);
  }

  // Sets the flags from the root down. Returns false if an entry changed since it was read: walk
  // again.
  bool SetAccessedAndDirty(const NestedEptAccess& request, NestedEptWalk& walk) {
    for (int level = eptp_.levels(); level >= walk.level; --level) {
      const EptEntry entry = walk.entries[At(level)];
      EptEntry flagged = entry.WithAccessed();
      if (level == walk.level && request.access.can_write()) flagged = flagged.WithDirty();
      if (ABSL_PREDICT_TRUE(flagged == entry)) continue;
      GuestWalkOutcome why = GuestWalkOutcome::kMapped;
      std::byte* place = memory_.Reach(walk.entry_addresses[At(level)], true, why);
      if (place == nullptr && why != GuestWalkOutcome::kMapped) {
        Unreachable(why, walk.entry_addresses[At(level)], walk);
        return true;
      }
      if (place == nullptr) {
        walk.write_protected_table = true;
        continue;
      }
      uint64_t expected = entry.raw();
      if (!Word(place).compare_exchange_strong(expected, flagged.raw(),
                                               std::memory_order_acq_rel)) {
        return EndsAt(walk.entry_addresses[At(level)], walk);
      }
      memory_.Wrote(walk.entry_addresses[At(level)]);
      walk.entries[At(level)] = flagged;
    }
    return true;
  }

  // Returns whether the walk ends here, where an entry has changed under it.
  bool EndsAt(Gpa entry, NestedEptWalk& walk) {
    if (--walks_left_ != 0) return false;
    memory_.AskAgain(entry);
    Unreachable(GuestWalkOutcome::kNeedsPage, entry, walk);
    return true;
  }

  static AtomicRef<uint64_t> Word(std::byte* place) {
    return AtomicRef<uint64_t>(*reinterpret_cast<uint64_t*>(place));
  }

  const Eptp eptp_;
  const EntryRules& rules_;
  Memory& memory_;
  int walks_left_;  // set as a walk begins
};

// Reaches L2's memory as its own page tables are walked: L1's memory through EPT12. It is a memory
// for `GuestWalker`.
template <typename Memory>
class NestedMemory {
 public:
  NestedMemory(Eptp eptp, const EntryRules& rules, Memory& memory)
      : accessed_dirty_(eptp.accessed_dirty()), walker_(eptp, rules, memory), memory_(memory) {}

  // Returns how EPT12 stopped the walk, after kNestedFault; and where (an L2 address).
  const NestedEptWalk& fault() const { return walk_; }
  Gpa fault_gpa() const { return request_.gpa; }

  std::byte* Reach(Gpa gpa, bool to_write, GuestWalkOutcome& why) {
    NestedEptAccess request;
    request.gpa = gpa;
    // With A and D flags an access to a paging structure counts as a write too (SDM 29.3.5).
    request.access = accessed_dirty_ ? Access::ReadWrite()
                     : to_write      ? Access::Write()
                                     : Access::Read();
    request.linear_address_valid = true;
    return ReachFor(request, to_write, why);
  }

  // Says that something was written where the last `Reach` for writing led.
  void Wrote(Gpa) { memory_.Wrote(walk_.gpa); }
  void AskAgain(Gpa) { memory_.AskAgain(walk_.gpa); }

  // Does what `Reach` does for any other access.
  std::byte* ReachFor(const NestedEptAccess& request, bool to_write, GuestWalkOutcome& why) {
    request_ = request;
    walker_.Walk(request, walk_);
    switch (walk_.outcome) {
      case NestedEptOutcome::kMapped:
        return memory_.Reach(walk_.gpa, to_write, why);
      case NestedEptOutcome::kViolation:
      case NestedEptOutcome::kMisconfiguration:
        why = GuestWalkOutcome::kNestedFault;
        return nullptr;
      case NestedEptOutcome::kNoMemory:
        why = GuestWalkOutcome::kNoMemory;
        return nullptr;
      case NestedEptOutcome::kNeedsPage:
        why = GuestWalkOutcome::kNeedsPage;
        return nullptr;
    }
    return nullptr;
  }

 private:
  const bool accessed_dirty_;
  NestedEptWalker<Memory> walker_;
  Memory& memory_;
  NestedEptAccess request_;
  NestedEptWalk walk_;
};

// Reaches memory as L2 loads PDPTEs: always a read, whatever the A and D flags, and on behalf of no
// linear address (SDM 29.3.5).
template <typename Memory>
class PdpteMemory : public NestedMemory<Memory> {
 public:
  using NestedMemory<Memory>::NestedMemory;

  std::byte* Reach(Gpa gpa, bool, GuestWalkOutcome& why) {
    NestedEptAccess request;
    request.gpa = gpa;
    request.access = Access::Read();
    return this->ReachFor(request, false, why);
  }
};

}  // namespace tdp

#endif  // TDP_MMU_GUEST_NESTED_EPT_WALKER_H_
