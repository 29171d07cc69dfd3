// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One entry of an extended page table, as a value.
//
// This class is the whole of what the engine knows of the entry's format. A second format (AMD's
// nested tables, Arm's stage 2) would be a second class of this shape.

#ifndef TDP_MMU_FORMAT_EPT_ENTRY_H_
#define TDP_MMU_FORMAT_EPT_ENTRY_H_

#include <cstdint>
#include <string>

#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/ept_capabilities.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp {

// Says what an entry is to the engine. Ask once, then switch.
enum class EntryKind : uint8_t {
  kHole,   // maps nothing
  kTable,  // points to a table one level down
  kLeaf,   // maps a page (even while access tracking has taken its rights away)
  kMmio,   // misconfigured on purpose: remembers that the frame has no memory
};

// Says which rule of the SDM an entry breaks (29.3.3.1 "EPT misconfigurations").
enum class EntryDefect : uint8_t {
  kNone,
  kWriteWithoutRead,
  kExecuteWithoutRead,     // and execute-only is not offered
  kReservedBit,            // of a table entry, or of the address by MAXPHYADDR
  kMisalignedLargePage,    // address bits below the size of the page
  kReservedMemoryType,     // 2, 3 or 7
  kLargePageNotOffered,    // bit 7 at a level where the CPU has no such page
  kPagingWriteWithoutRead  // bit 58
};

const char* EntryDefectName(EntryDefect defect);

// Holds what decides, besides an entry's own bits, whether it is legal.
struct EntryRules {
  EptCapabilities capabilities;
  int physical_address_bits = 52;  // MAXPHYADDR
  bool mbec = false;               // mode-based execute control for EPT is on
  bool paging_write = false;       // EPT paging-write control is on
};

// Names bits of an entry by their meaning, for who looks at many entries at once, or takes bits of
// a stored one by a single instruction.
enum class EntryBits : uint64_t {
  kWrite = ept::kWrite,
  kDirty = ept::kDirty,                            // of leaves
  kWriteAndDirty = ept::kWrite | ept::kDirty,      // of leaves
  kHarvest = ept::kAccessed | ept::kTableRevisit,  // of tables: leaves below may have become dirty
  kAny = ~ept::kSuppressVe,                        // it is no hole
  // Small leaves and the large one that takes their place may differ in A, D, W and what the host
  // allows; and where the large one does not execute, in X.
  kOfParts = ept::kAccessed | ept::kDirty | ept::kWrite | ept::kSoftHostWritable,
  kOfPartsAndExecute = kOfParts | ept::kExecute | ept::kUserExecute,
};

// One entry: an immutable value, of which `With…`/`Without…` return changed copies. Nothing here
// touches memory: stored entries are reached through `EntryRef`.
class EptEntry {
 public:
  constexpr EptEntry() = default;
  constexpr explicit EptEntry(uint64_t raw) : raw_(raw) {}

  // --- makers ---
  // Makes an entry that maps nothing. `suppress_ve` keeps a violation here a VM exit when #VE is in
  // use.
  static constexpr EptEntry Empty(bool suppress_ve = false) {
    return EptEntry(suppress_ve ? ept::kSuppressVe : 0);
  }
  // Makes one that points to the table at `table` with every right, user-mode execution included.
  static constexpr EptEntry Table(Hpa table) {
    return EptEntry(table.raw() | ept::kRightsMask | ept::kUserExecute);
  }
  // Makes one that maps the page at `frame` at `level` (1 to 3). `frame` is aligned to the level.
  static constexpr EptEntry Leaf(Hfn frame, Level level, Access access, MemoryType type) {
    uint64_t raw = frame.address().raw() | RightsBits(access) |
                   static_cast<uint64_t>(type) << ept::kMemoryTypeShift;
    if (level > kLevel4K) raw |= ept::kLargePage;
    return EptEntry(raw);
  }
  // Makes one that remembers that `gfn` is MMIO as of slot generation `generation`, of which the
  // low `ept::kMmioGenerationBits` are kept.
  static constexpr EptEntry Mmio(Gfn gfn, uint64_t generation) {
    const uint64_t low = generation & ((uint64_t{1} << ept::kMmioGenerationLowBits) - 1);
    const uint64_t high = generation >> ept::kMmioGenerationLowBits &
                          ((uint64_t{1} << ept::kMmioGenerationHighBits) - 1);
    return EptEntry(ept::kMmioPattern | low << ept::kMmioGenerationLowShift |
                    high << ept::kMmioGenerationHighShift |
                    (gfn.address().raw() & ept::kAddressMask));
  }

  // Returns whether MMIO entries of slot generation `before` may stay while they are compared with
  // those of `after`, a later one: not once the bits that are kept have wrapped around between
  // them.
  static constexpr bool TellsApart(uint64_t before, uint64_t after) {
    return before >> ept::kMmioGenerationBits == after >> ept::kMmioGenerationBits;
  }

  // --- what it is ---
  constexpr EntryKind kind(Level level) const {
    if ((raw_ & ~ept::kSuppressVe) == 0) return EntryKind::kHole;
    if (is_mmio()) return EntryKind::kMmio;
    if (level == kLevel4K || (raw_ & ept::kLargePage) != 0) return EntryKind::kLeaf;
    return EntryKind::kTable;
  }
  // Returns whether it is `EntryKind::kTable`, at a level above 1: every table is linked with R and
  // keeps it, and what else lacks bit 7 (a hole, an MMIO entry) has no R.
  constexpr bool points_to_table() const {
    return (raw_ & (ept::kRead | ept::kLargePage)) == ept::kRead;
  }
  // Returns whether it points to a table, and W is not missing.
  constexpr bool links_writably() const {
    constexpr uint64_t kRights = ept::kRead | ept::kWrite;
    return (raw_ & (kRights | ept::kLargePage)) == kRights;
  }
  constexpr bool is_hole() const { return (raw_ & ~ept::kSuppressVe) == 0; }
  constexpr bool is_mmio() const { return (raw_ & ept::kRightsMask) == ept::kMmioPattern; }
  // Returns whether this entry at level 1 allows an access of `needed`, which is of r, w and x. An
  // MMIO entry has no R and so allows nothing.
  constexpr bool LeafAllows(Access needed) const {
    static_assert(Access::Read().raw() == ept::kRead && Access::Write().raw() == ept::kWrite &&
                  Access::Execute().raw() == ept::kExecute);
    return ((needed.raw() | ept::kRead) & ~raw_) == 0;
  }
  // Returns whether this leaf at level 1 may be read, and W is all that it lacks: for a log, not
  // for the host.
  constexpr bool lacks_write_alone() const {
    constexpr uint64_t kThere = ept::kRead | ept::kSoftHostWritable;
    return (raw_ & (kThere | ept::kWrite | ept::kSoftAccessTracked)) == kThere;
  }
  // Returns whether hardware takes the entry for present (SDM 29.3.2: any of bits 2:0, or bit 10
  // under MBEC).
  constexpr bool is_present(bool mbec = false) const {
    return (raw_ & (ept::kRightsMask | (mbec ? ept::kUserExecute : 0))) != 0;
  }

  // --- getters ---
  constexpr uint64_t raw() const { return raw_; }
  constexpr Hpa address() const { return Hpa(raw_ & ept::kAddressMask); }
  constexpr Hfn frame() const { return Hfn::Of(address()); }
  constexpr Access access() const {
    return Access::FromRaw(static_cast<uint8_t>((raw_ & ept::kRightsMask) |
                                                ((raw_ & ept::kUserExecute) != 0 ? 8 : 0)));
  }
  constexpr bool is_writable() const { return Has(ept::kWrite); }
  constexpr bool HasAny(EntryBits bits) const { return Has(static_cast<uint64_t>(bits)); }
  constexpr MemoryType memory_type() const {
    return static_cast<MemoryType>((raw_ & ept::kMemoryTypeMask) >> ept::kMemoryTypeShift);
  }
  constexpr bool ignore_pat() const { return Has(ept::kIgnorePat); }
  constexpr bool accessed() const { return Has(ept::kAccessed); }
  constexpr bool dirty() const { return Has(ept::kDirty); }
  constexpr bool suppress_ve() const { return Has(ept::kSuppressVe); }
  constexpr bool sub_page_write() const { return Has(ept::kSubPageWrite); }
  constexpr bool host_writable() const { return Has(ept::kSoftHostWritable); }
  constexpr bool is_private() const { return Has(ept::kSoftPrivate); }
  constexpr bool access_tracked() const { return Has(ept::kSoftAccessTracked); }
  constexpr bool is_foreign() const { return Has(ept::kSoftForeign); }  // of a leaf
  // Returns whether W, A and D here say nothing of a slot's page: logs and aging pass the entry
  // over.
  constexpr bool is_untracked() const { return is_mmio() || is_foreign(); }
  // These two are told of entries that point to a table.
  constexpr bool must_revisit() const { return Has(ept::kTableRevisit); }
  constexpr bool is_pushing() const { return Has(ept::kTablePushing); }
  constexpr uint64_t mmio_generation() const {
    return (raw_ >> ept::kMmioGenerationLowShift &
            ((uint64_t{1} << ept::kMmioGenerationLowBits) - 1)) |
           (raw_ >> ept::kMmioGenerationHighShift &
            ((uint64_t{1} << ept::kMmioGenerationHighBits) - 1))
               << ept::kMmioGenerationLowBits;
  }
  constexpr Gfn mmio_gfn() const { return Gfn(address().raw() >> kPageShift); }

  // --- changed copies ---
  constexpr EptEntry WithAccess(Access access) const {
    return EptEntry((raw_ & ~(ept::kRightsMask | ept::kUserExecute)) | RightsBits(access));
  }
  // Returns this leaf, which maps frame 0, for `frame`.
  constexpr EptEntry WithFrame(Hfn frame) const { return With(frame.address().raw()); }
  constexpr EptEntry WithWrite() const { return With(ept::kWrite); }
  constexpr EptEntry WithoutWrite() const { return Without(ept::kWrite); }
  constexpr EptEntry WithAccessed() const { return With(ept::kAccessed); }
  constexpr EptEntry WithoutAccessed() const { return Without(ept::kAccessed); }
  constexpr EptEntry WithDirty() const { return With(ept::kDirty); }
  constexpr EptEntry WithoutDirty() const { return Without(ept::kDirty); }
  constexpr EptEntry WithIgnorePat() const { return With(ept::kIgnorePat); }
  constexpr EptEntry WithoutIgnorePat() const { return Without(ept::kIgnorePat); }
  constexpr EptEntry WithSuppressVe() const { return With(ept::kSuppressVe); }
  constexpr EptEntry WithoutSuppressVe() const { return Without(ept::kSuppressVe); }
  constexpr EptEntry WithHostWritable() const { return With(ept::kSoftHostWritable); }
  constexpr EptEntry WithoutHostWritable() const { return Without(ept::kSoftHostWritable); }
  constexpr EptEntry WithPrivate() const { return With(ept::kSoftPrivate); }
  constexpr EptEntry WithForeign() const { return With(ept::kSoftForeign | ept::kDirty); }
  constexpr EptEntry WithoutExecute() const { return Without(ept::kExecute | ept::kUserExecute); }
  constexpr EptEntry WithPushing() const { return With(ept::kTablePushing); }
  // Returns what the end of a push leaves at a table entry: W is back.
  constexpr EptEntry WithWritePushed() const { return WithWrite().Without(ept::kTablePushing); }
  // Returns what a harvest leaves at a table entry as it goes below: A clear, and a note if a CPU
  // may go on through the entry until the flush.
  constexpr EptEntry WithAccessedHarvested() const {
    return Has(ept::kAccessed | ept::kTableRevisitTwice)
               ? Without(ept::kAccessed | ept::kTableRevisitTwice).With(ept::kTableRevisit)
               : Without(ept::kTableRevisit);
  }
  // Returns what anyone but a harvest leaves who clears A and need not flush.
  constexpr EptEntry WithAccessedTaken() const {
    return Without(ept::kAccessed).With(ept::kTableRevisit | ept::kTableRevisitTwice);
  }
  constexpr EptEntry WithMemoryType(MemoryType type) const {
    return EptEntry((raw_ & ~ept::kMemoryTypeMask) | static_cast<uint64_t>(type)
                                                         << ept::kMemoryTypeShift);
  }
  // Returns the leaf with its rights moved to the saved bits, so that any access is a violation. W
  // is not kept (KVM's mark_spte_for_access_track): only a write gives it back, since that may have
  // to be logged.
  constexpr EptEntry WithAccessTracked() const {
    const Access kept = access().Without(Access::Write());
    return EptEntry((raw_ & ~(ept::kRightsMask | ept::kUserExecute | ept::kSoftSavedRightsMask)) |
                    ept::kSoftAccessTracked |
                    static_cast<uint64_t>(kept.raw()) << ept::kSoftSavedRightsShift);
  }
  // Undoes `WithAccessTracked`, but for W.
  constexpr EptEntry WithRightsRestored() const {
    const auto saved =
        static_cast<uint8_t>((raw_ & ept::kSoftSavedRightsMask) >> ept::kSoftSavedRightsShift);
    return EptEntry(raw_ & ~(ept::kSoftAccessTracked | ept::kSoftSavedRightsMask))
        .WithAccess(Access::FromRaw(saved));
  }
  // Returns the entry for the `index`-th (0 to 511) part of this leaf one level down: same rights,
  // type, A and D. This leaf stands at `level`, 2 or 3.
  constexpr EptEntry SplitChild(Level level, int index) const {
    uint64_t raw = raw_ + static_cast<uint64_t>(index) * level.below().bytes();
    if (level == kLevel2M) raw &= ~ept::kLargePage;
    return EptEntry(raw);
  }

  // Returns the entry with those of its rights that `other` has too: rights combine by AND over a
  // walk.
  constexpr EptEntry WithRightsOf(EptEntry other) const {
    return EptEntry(raw_ & (other.raw_ | ~(ept::kRightsMask | ept::kUserExecute)));
  }
  // Returns this leaf with the rights, the host's permission to write, and the A and D bits of
  // `other` added, and with #VE not suppressed if `other` does not.
  constexpr EptEntry WithGrantsOf(EptEntry other) const {
    return Without(~other.raw_ & ept::kSuppressVe)
        .With(other.raw_ & (ept::kRightsMask | ept::kUserExecute | ept::kAccessed | ept::kDirty |
                            ept::kSoftHostWritable));
  }
  // Returns this value with all bits of `other` added. That is no entry: it collects the bits of
  // many for one `WithUseOf`.
  constexpr EptEntry WithBitsOf(EptEntry other) const { return With(other.raw_); }
  // Returns this leaf with the A and D bits of `other` added.
  constexpr EptEntry WithUseOf(EptEntry other) const { return With(other.raw_ & kUse); }
  // Returns this 4 KiB leaf for the frame `pages` after its own.
  constexpr EptEntry FollowedBy(PageCount pages) const { return EptEntry(raw_ + pages.bytes()); }
  // Returns this 4 KiB leaf as one at `level`, 2 or 3: the aligned page around its frame.
  constexpr EptEntry EnlargedTo(Level level) const {
    return EptEntry((raw_ & ~ept::Bits(level.shift() - 1, kPageShift)) | ept::kLargePage);
  }

  // Returns whether this leaf and `other`, both present, map the same page.
  constexpr bool MapsAs(EptEntry other) const {
    return ((raw_ ^ other.raw_) & (ept::kAddressMask | ept::kLargePage)) == 0;
  }
  // Returns whether this leaf maps what `whole` maps, in the same way: `ignored`, one of the last
  // two of `EntryBits`, may differ, but W and the host's permission may not be more here.
  constexpr bool IsPartOf(EptEntry whole, EntryBits ignored) const {
    constexpr uint64_t kGrants = ept::kWrite | ept::kSoftHostWritable;
    return ((raw_ ^ whole.raw_) & ~static_cast<uint64_t>(ignored)) == 0 &&
           (raw_ & ~whole.raw_ & kGrants) == 0;
  }
  // Returns whether a CPU that has this leaf must forget it once `after`, of the same page, stands
  // there.
  constexpr bool OwesFlushFor(EptEntry after) const {
    return !after.access().Covers(access()) || memory_type() != after.memory_type() ||
           ignore_pat() != after.ignore_pat();
  }

  // Returns the first rule that a present entry at `level` breaks; a not-present one breaks none.
  constexpr EntryDefect Check(Level level, const EntryRules& rules) const;

  friend constexpr bool operator==(EptEntry, EptEntry) = default;
  // Returns "leaf 0x12345000 rwx- A-D- WB" and the like; the raw word for what has no such reading.
  std::string DebugString(Level level) const;

 private:
  static constexpr uint64_t kUse = ept::kAccessed | ept::kDirty;

  static constexpr uint64_t RightsBits(Access access) {
    return (access.raw() & 7) | (access.can_user_execute() ? ept::kUserExecute : 0);
  }
  constexpr bool Has(uint64_t bit) const { return (raw_ & bit) != 0; }
  constexpr EptEntry With(uint64_t bits) const { return EptEntry(raw_ | bits); }
  constexpr EptEntry Without(uint64_t bits) const { return EptEntry(raw_ & ~bits); }

  constexpr EntryDefect CheckRights(const EntryRules& rules) const;
  constexpr EntryDefect CheckLeaf(Level level, const EntryRules& rules) const;

  uint64_t raw_ = 0;
};

static_assert(sizeof(EptEntry) == sizeof(uint64_t));

constexpr EntryDefect EptEntry::CheckRights(const EntryRules& rules) const {
  if (Has(ept::kRead)) return EntryDefect::kNone;
  if (Has(ept::kWrite)) return EntryDefect::kWriteWithoutRead;
  if (!rules.capabilities.execute_only() &&
      (Has(ept::kExecute) || (rules.mbec && Has(ept::kUserExecute)))) {
    return EntryDefect::kExecuteWithoutRead;
  }
  return EntryDefect::kNone;
}

constexpr EntryDefect EptEntry::CheckLeaf(Level level, const EntryRules& rules) const {
  if (!rules.capabilities.OffersLeafAt(level)) return EntryDefect::kLargePageNotOffered;
  if ((raw_ & ept::Bits(level.shift() - 1, kPageShift)) != 0) {
    return EntryDefect::kMisalignedLargePage;
  }
  if (!IsValidMemoryType((raw_ & ept::kMemoryTypeMask) >> ept::kMemoryTypeShift)) {
    return EntryDefect::kReservedMemoryType;
  }
  if (rules.paging_write && Has(ept::kPagingWrite) && !Has(ept::kRead)) {
    return EntryDefect::kPagingWriteWithoutRead;
  }
  return EntryDefect::kNone;
}

constexpr EntryDefect EptEntry::Check(Level level, const EntryRules& rules) const {
  if (!is_present(rules.mbec)) return EntryDefect::kNone;
  if (EntryDefect rights = CheckRights(rules); rights != EntryDefect::kNone) return rights;
  if ((raw_ & ept::Bits(ept::kAddressHighBit, rules.physical_address_bits)) != 0) {
    return EntryDefect::kReservedBit;
  }
  if (level == kLevel4K) return CheckLeaf(level, rules);
  if (level > kLevel1G) {
    return (raw_ & (ept::kTableReservedLow | ept::kLargePage)) != 0 ? EntryDefect::kReservedBit
                                                                    : EntryDefect::kNone;
  }
  if (Has(ept::kLargePage)) return CheckLeaf(level, rules);
  return (raw_ & ept::kTableReservedLow) != 0 ? EntryDefect::kReservedBit : EntryDefect::kNone;
}

}  // namespace tdp

#endif  // TDP_MMU_FORMAT_EPT_ENTRY_H_
