// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The engine's walk of a guest's own tables: from a guest virtual to a guest physical address
// (KVM's FNAME(walk_addr_generic)). One template over the paging mode and over how guest memory is
// reached.

#ifndef TDP_MMU_GUEST_GUEST_WALKER_H_
#define TDP_MMU_GUEST_GUEST_WALKER_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "tdp/base/address.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/guest/guest_walk.h"

namespace tdp {

// A walk reaches guest memory through a class with
//   std::byte* Reach(Gpa gpa, bool to_write, GuestWalkOutcome& why)
//   void Wrote(Gpa gpa)
//   void AskAgain(Gpa gpa)
// `Reach` gives the place of the 4 or 8 bytes at `gpa`, or null and why: kNoMemory, kNeedsPage,
// kNestedFault. With `to_write`, a place that may be written; null with kMapped if it never may be
// (read-only memory). `Wrote` follows each write through such a place. `AskAgain` says that the
// page of the last such place is to be asked for once more, since the walk ends there as
// kNeedsPage.
//
// It may have `AtHand` besides, made of it for one section:
//   bool Find(Gpa page, const std::byte*& found)
// gives the page that begins there, to be read, or false where `Reach` has to be asked.

// How often a walk begins again by itself where entries change under it. A guest that writes its
// tables all the time gets no more at once: the walk is in a section, for whose end others wait.
inline constexpr int kWalksAtOnce = 16;

// Returns whether the bits of `gva` above its `linear_bits`, 48 or 57, are copies of the highest
// one.
constexpr bool IsCanonical(Gva gva, int linear_bits) {
  const int unused = 64 - linear_bits;
  return static_cast<uint64_t>(static_cast<int64_t>(gva.raw() << unused) >> unused) == gva.raw();
}

// Describes the tables of one paging mode.
template <PagingMode kMode>
struct PagingGeometry {
  using Entry = std::conditional_t<kMode == PagingMode::k32Bit, uint32_t, uint64_t>;
  static constexpr int kIndexBits = kMode == PagingMode::k32Bit ? 10 : 9;
  // How many levels lie in memory: the PDPTEs of PAE paging are registers.
  static constexpr int kLevels = kMode == PagingMode::k5Level   ? 5
                                 : kMode == PagingMode::k4Level ? 4
                                                                : 2;
  static constexpr int kLinearBits = kMode == PagingMode::k5Level   ? 57
                                     : kMode == PagingMode::k4Level ? 48
                                                                    : 32;
  static constexpr bool kIs64Bit = kMode >= PagingMode::k4Level;
  // The root's address in CR3, of which there are 32 bits outside 64-bit modes: a CPU that has left
  // them may have more in the register, and ignores them.
  static constexpr uint64_t kRootMask = guest::Bits(kIs64Bit ? 51 : 31, kPageShift);

  static constexpr int Shift(int level) { return kPageShift + kIndexBits * (level - 1); }
  static constexpr uint64_t Index(Gva gva, int level) {
    return gva.raw() >> Shift(level) & ((uint64_t{1} << kIndexBits) - 1);
  }
  static constexpr bool IsCanonical(Gva gva) {
    return !kIs64Bit || tdp::IsCanonical(gva, kLinearBits);
  }
  // Returns the gpa that a leaf of `level` gives `gva`.
  static constexpr Gpa Translate(uint64_t leaf, int level, Gva gva) {
    const uint64_t offset = (uint64_t{1} << Shift(level)) - 1;
    uint64_t frame = leaf & guest::kAddressMask & ~offset;
    if (kMode == PagingMode::k32Bit && level == 2) {
      frame |= (leaf >> guest::kPse36Shift & ((1 << guest::kPse36Bits) - 1)) << 32;
    }
    return Gpa(frame | (gva.raw() & offset));
  }
};

template <PagingMode kMode, typename Memory>
class GuestWalker {
 public:
  using Geometry = PagingGeometry<kMode>;
  using Entry = typename Geometry::Entry;

  GuestWalker(const GuestPaging& paging, const GuestRoots& roots, Memory& memory)
      : paging_(paging), roots_(roots), memory_(memory) {}

  // Translates `gva`, checks `access`, sets A in every entry used and D in the leaf of a write. An
  // access that faults sets nothing.
  ABSL_ATTRIBUTE_ALWAYS_INLINE void Walk(Gva gva, GuestAccess access, GuestWalk& walk) {
    if constexpr (requires { typename Memory::AtHand; }) {
      if (ABSL_PREDICT_TRUE(WalkAtHand(gva, access, walk))) return;
    }
    WalkFurther(gva, access, walk);
  }

 private:
  static constexpr size_t At(int level) { return static_cast<size_t>(level); }

  // Returns what leads to the root, where it is CR3 that does. Every reader takes the address out.
  uint64_t Root() const {
    return Geometry::kIs64Bit ? roots_.cr3 : roots_.cr3 & Geometry::kRootMask;
  }

  // Walks as it nearly always goes: every table is at hand, the leaf is of 4 KiB, nothing is to be
  // set and nothing forbids the access. It looks at what the entries say when it has read them all:
  // an entry that is none leads to no page, or to one of which nothing is used. Returns false, and
  // leaves `walk` to `WalkFurther`, where it is otherwise.
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool WalkAtHand(Gva gva, GuestAccess access, GuestWalk& walk) const {
    const typename Memory::AtHand memory{memory_};
    uint64_t table = Root();
    uint64_t all = ~uint64_t{0};
    uint64_t upper = 0;
    if constexpr (kMode == PagingMode::kPae) {
      table = roots_.pdptes[gva.raw() >> 30 & 3];
      if (ABSL_PREDICT_FALSE((table & guest::kPresent) == 0)) return false;
    }
    // `level` is a constant of each step, so shifts and places are, too.
    const auto step = [&](auto level) ABSL_ATTRIBUTE_ALWAYS_INLINE {
      const Gpa page(table & guest::kAddressMask);
      const std::byte* place;
      if (ABSL_PREDICT_FALSE(!memory.Find(page, place))) return false;
      const uint64_t offset = Geometry::Index(gva, level) * sizeof(Entry);
      walk.entry_addresses[At(level)] = page + offset;
      if constexpr (level < Geometry::kLevels) upper |= table;
      if constexpr (level == 1) walk.all_above = all;
      table = Load(place + offset);
      walk.entries[At(level)] = table;
      all &= table;
      return true;
    };
    const bool reached = [&]<int... kFromTop>(std::integer_sequence<int, kFromTop...>)
        ABSL_ATTRIBUTE_ALWAYS_INLINE {
      return (step(std::integral_constant<int, Geometry::kLevels - kFromTop>()) && ...);
    }
    (std::make_integer_sequence<int, Geometry::kLevels>());
    const uint64_t leaf = table;
    if (ABSL_PREDICT_FALSE(!reached || !paging_.IsOrdinary(all, upper, leaf))) return false;
    const GuestRights rights = GuestRights::OfAll(all, upper | leaf);
    if (ABSL_PREDICT_FALSE(!paging_.Allows(access, rights) || !Geometry::IsCanonical(gva))) {
      return false;
    }
    if (access.is_write() && (leaf & guest::kDirty) == 0) return false;
    walk.Begin(Geometry::kLevels);
    walk.level = 1;
    walk.any_above = upper;
    walk.rights = rights;
    walk.gpa = Geometry::Translate(leaf, 1, gva);
    walk.page_bytes = kPageSize;
    return true;
  }

  ABSL_ATTRIBUTE_NOINLINE void WalkFurther(Gva gva, GuestAccess access, GuestWalk& walk) {
    if (!Geometry::IsCanonical(gva)) {
      walk.outcome = GuestWalkOutcome::kNonCanonical;
      return;
    }
    walks_left_ = kWalksAtOnce;
    do {
      if (!Descend(gva, access, walk) || !Check(access, walk)) return;
      if (ABSL_PREDICT_TRUE(HasFlagsSet(access, walk))) break;
    } while (ABSL_PREDICT_FALSE(!SetAccessedAndDirty(access, walk)));
    if (ABSL_PREDICT_FALSE(walk.outcome != GuestWalkOutcome::kMapped)) return;
    walk.gpa = Geometry::Translate(walk.entries[At(walk.level)], walk.level, gva);
    walk.page_bytes = uint64_t{1} << Geometry::Shift(walk.level);
  }

  static bool Stop(GuestWalk& walk, GuestWalkOutcome why, Gpa gpa) {
    walk.outcome = why;
    walk.gpa = gpa;
    return false;
  }
  bool PageFault(GuestAccess access, uint32_t bits, GuestWalk& walk) const {
    walk.outcome = GuestWalkOutcome::kPageFault;
    walk.error_code = paging_.ErrorCodeOf(access) | bits;
    return false;
  }

  // The parts that change at each level are kept out of the `GuestWalk` meanwhile, and so in
  // registers.
  struct Descent {
    int level = Geometry::kLevels;
    GuestRights rights = GuestRights(GuestRights::kAll);
    uint64_t common = ~uint64_t{0};     // the AND over the entries
    uint64_t all_above = ~uint64_t{0};  // the same without the last one
    uint64_t any_above = 0;             // the OR
  };

  // Goes from the root to the leaf; false if something ends the walk before.
  bool Descend(Gva gva, GuestAccess access, GuestWalk& walk) {
    walk.Begin(Geometry::kLevels);
    Descent descent;
    const bool reached = DescendFromRoot(gva, access, walk, descent);
    walk.level = descent.level;
    walk.rights = descent.rights;
    walk.all_above = descent.all_above;
    walk.any_above = descent.any_above;
    common_ = descent.common;
    return reached;
  }

  ABSL_ATTRIBUTE_ALWAYS_INLINE bool DescendFromRoot(Gva gva, GuestAccess access, GuestWalk& walk,
                                                    Descent& descent) {
    uint64_t table = Root();
    if constexpr (kMode == PagingMode::kPae) {
      table = roots_.pdptes[gva.raw() >> 30 & 3];
      if ((table & guest::kPresent) == 0) return PageFault(access, 0, walk);
    }
    return DescendFrom<Geometry::kLevels>(table, gva, access, walk, descent);
  }

  // Goes on from `table`, the entry or register that leads to the table of `kLevel`. Each level has
  // a function, so that shifts and places are constants.
  template <int kLevel>
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool DescendFrom(uint64_t table, Gva gva, GuestAccess access,
                                                GuestWalk& walk, Descent& descent) {
    descent.level = kLevel;
    const Gpa address((table & guest::kAddressMask) + Geometry::Index(gva, kLevel) * sizeof(Entry));
    walk.entry_addresses[At(kLevel)] = address;
    GuestWalkOutcome why = GuestWalkOutcome::kMapped;
    const std::byte* place = memory_.Reach(address, false, why);
    if (ABSL_PREDICT_FALSE(place == nullptr)) return Stop(walk, why, address);
    const uint64_t entry = Load(place);
    walk.entries[At(kLevel)] = entry;
    if (ABSL_PREDICT_FALSE((entry & guest::kPresent) == 0)) return PageFault(access, 0, walk);
    const bool is_leaf = paging_.IsLeaf(entry, kLevel);
    if (ABSL_PREDICT_FALSE(paging_.HasReservedBit(entry, kLevel, is_leaf))) {
      return PageFault(access, guest::kFaultPresent | guest::kFaultReserved, walk);
    }
    descent.rights = descent.rights & GuestRights::Of(entry);
    descent.all_above = descent.common;
    descent.common &= entry;
    if constexpr (kLevel > 1) {
      if (!is_leaf) descent.any_above |= entry;
      if (!is_leaf) return DescendFrom<kLevel - 1>(entry, gva, access, walk, descent);
    }
    return true;
  }

  bool Check(GuestAccess access, GuestWalk& walk) const {
    bool key_forbids = false;
    if (Geometry::kIs64Bit && ABSL_PREDICT_FALSE(paging_.has_keys())) {
      key_forbids = paging_.KeyForbids(access, walk.rights, walk.entries[At(walk.level)], roots_);
    }
    if (ABSL_PREDICT_TRUE(paging_.Allows(access, walk.rights) && !key_forbids)) return true;
    return PageFault(access, guest::kFaultPresent | (key_forbids ? guest::kFaultProtectionKey : 0),
                     walk);
  }

  // Returns whether A is set in every entry used, and D in the leaf of a write, as nearly always.
  bool HasFlagsSet(GuestAccess access, const GuestWalk& walk) const {
    if ((common_ & guest::kAccessed) == 0) return false;
    return !access.is_write() || (walk.entries[At(walk.level)] & guest::kDirty) != 0;
  }

  // Sets the flags from the root down. Returns false if an entry changed since it was read: walk
  // again. Where a page must be had first the outcome says so. What was set until then stays set,
  // as hardware leaves it.
  bool SetAccessedAndDirty(GuestAccess access, GuestWalk& walk) {
    for (int level = walk.top; level >= walk.level; --level) {
      const uint64_t entry = walk.entries[At(level)];
      uint64_t flagged = entry | guest::kAccessed;
      if (level == walk.level && access.is_write()) flagged |= guest::kDirty;
      if (ABSL_PREDICT_TRUE(flagged == entry)) continue;
      GuestWalkOutcome why = GuestWalkOutcome::kMapped;
      std::byte* place = memory_.Reach(walk.entry_addresses[At(level)], true, why);
      if (place == nullptr && why != GuestWalkOutcome::kMapped) {
        Stop(walk, why, walk.entry_addresses[At(level)]);
        return true;
      }
      if (place == nullptr) {
        walk.write_protected_table = true;
        continue;
      }
      if (!CompareExchange(place, entry, flagged)) {
        return EndsAt(walk.entry_addresses[At(level)], walk);
      }
      memory_.Wrote(walk.entry_addresses[At(level)]);
      walk.entries[At(level)] = flagged;
    }
    return true;
  }
  // Returns whether the walk ends here, where an entry has changed under it.
  bool EndsAt(Gpa entry, GuestWalk& walk) {
    if (--walks_left_ != 0) return false;
    memory_.AskAgain(entry);
    Stop(walk, GuestWalkOutcome::kNeedsPage, entry);
    return true;
  }

  static uint64_t Load(const std::byte* place) {
    auto* entry = reinterpret_cast<Entry*>(const_cast<std::byte*>(place));
    return AtomicRef<Entry>(*entry).load(std::memory_order_acquire);
  }
  static bool CompareExchange(std::byte* place, uint64_t before, uint64_t after) {
    auto expected = static_cast<Entry>(before);
    return AtomicRef<Entry>(*reinterpret_cast<Entry*>(place))
        .compare_exchange_strong(expected, static_cast<Entry>(after), std::memory_order_acq_rel);
  }

  const GuestPaging& paging_;
  const GuestRoots& roots_;
  Memory& memory_;
  uint64_t common_ = 0;  // the AND over the entries of the last descent
  int walks_left_;       // set as a walk begins
};

// Walks in whatever mode `paging` is. Without paging a gva is a gpa, and has 32 bits.
template <typename Memory>
ABSL_ATTRIBUTE_NOINLINE void GvaToGpaInOtherModes(const GuestPaging& paging,
                                                  const GuestRoots& roots, Memory& memory, Gva gva,
                                                  GuestAccess access, GuestWalk& walk) {
  const auto walk_in = [&]<PagingMode kMode>(std::integral_constant<PagingMode, kMode>) {
    GuestWalker<kMode, Memory>(paging, roots, memory).Walk(gva, access, walk);
  };
  switch (paging.mode()) {
    case PagingMode::kNone:
      walk.Begin(0);
      walk.gpa = Gpa(gva.raw() & guest::Bits(31, 0));
      walk.page_bytes = kPageSize;
      return;
    case PagingMode::k32Bit:
      return walk_in(std::integral_constant<PagingMode, PagingMode::k32Bit>());
    case PagingMode::kPae:
      return walk_in(std::integral_constant<PagingMode, PagingMode::kPae>());
    case PagingMode::k4Level:
      return;  // the caller's
    case PagingMode::k5Level:
      return walk_in(std::integral_constant<PagingMode, PagingMode::k5Level>());
  }
}
// Walks as `GvaToGpa` above, and makes no call where paging has four levels.
template <typename Memory>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline void GvaToGpa(const GuestPaging& paging,
                                                  const GuestRoots& roots, Memory& memory, Gva gva,
                                                  GuestAccess access, GuestWalk& walk) {
  if (ABSL_PREDICT_TRUE(paging.mode() == PagingMode::k4Level)) {
    return GuestWalker<PagingMode::k4Level, Memory>(paging, roots, memory).Walk(gva, access, walk);
  }
  GvaToGpaInOtherModes(paging, roots, memory, gva, access, walk);
}

// Loads the four PDPTEs that `cr3` points to, as MOV to CR3 does under PAE paging. After kMapped
// they are in `roots`, which is unchanged else. kPageFault stands for #GP: one of them sets a
// reserved bit.
template <typename Memory>
GuestWalkOutcome LoadPdptes(const GuestPaging& paging, uint64_t cr3, Memory& memory,
                            GuestRoots& roots) {
  std::array<uint64_t, 4> loaded{};
  for (size_t i = 0; i < loaded.size(); ++i) {
    GuestWalkOutcome why = GuestWalkOutcome::kMapped;
    std::byte* place =
        memory.Reach(Gpa((cr3 & guest::kCr3PaeMask) + i * sizeof(uint64_t)), false, why);
    if (place == nullptr) return why;
    loaded[i] =
        AtomicRef<uint64_t>(*reinterpret_cast<uint64_t*>(place)).load(std::memory_order_acquire);
    if (!paging.IsValidPdpte(loaded[i])) return GuestWalkOutcome::kPageFault;
  }
  roots.pdptes = loaded;
  return GuestWalkOutcome::kMapped;
}

}  // namespace tdp

#endif  // TDP_MMU_GUEST_GUEST_WALKER_H_
