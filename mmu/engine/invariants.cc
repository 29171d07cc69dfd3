// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/invariants.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/memslot/slot_state.h"

namespace tdp {
namespace {

// Checks one view of one address space; keeps the first complaint.
class Checker {
 public:
  Checker(Engine& engine, AddressSpaceId space, const View& view,
          absl::flat_hash_set<const TablePage*>& seen, std::vector<MappedLeaf>& leaves)
      : engine_(engine),
        space_(space),
        view_(view),
        mmu_(view.mmu()),
        slots_(engine.slots()),
        seen_(seen),
        leaves_(leaves) {}

  absl::Status Run() {
    CheckTable(mmu_.root(), Gfn(0), mmu_.root_level());
    if (mmu_.eptp().root() != engine_.pool().HpaOf(mmu_.root()->entries())) {
      Complain("the EPTP names another root");
    }
    CheckList();
    mmu_.ForEach([this](TablePage* table, int index, EptEntry entry, Level level) {
      CheckEntry(table, index, entry, level);
    });
    return status_;
  }

 private:
  void CheckList() {
    const ViewSet& views = engine_.views(space_);
    const Eptp expected = view_.is_open() ? mmu_.eptp() : Eptp(0);
    if (views.has_list() && views.ListedEptp(view_.id()) != expected) {
      Complain("the list of EPTPs has another one");
    }
  }

  void CheckEntry(TablePage* table, int index, EptEntry entry, Level level) {
    const Gfn gfn = table->base + PageCount(static_cast<uint64_t>(index) * level.pages().raw());
    where_ = absl::StrFormat("space %u view %u gfn 0x%x level %d entry 0x%x", space_, view_.id(),
                             gfn.raw(), level.raw(), entry.raw());
    switch (entry.kind(level)) {
      case EntryKind::kHole:
        break;
      case EntryKind::kMmio:
        CheckMmio(gfn, level, entry);
        break;
      case EntryKind::kTable:
        CheckLine(table, index, gfn, level);
        CheckLegal(entry, level);
        if (entry.is_pushing()) Complain("a push of W that was begun and not ended");
        CheckTable(TablePage::Of(engine_.pool().EntriesOf(entry.address())), gfn, level.below());
        break;
      case EntryKind::kLeaf:
        CheckLine(table, index, gfn, level);
        CheckLegal(entry, level);
        CheckTracking(entry);
        CheckLeaf(gfn, level, entry);
        break;
    }
  }

  // Every table is linked once and knows its place.
  void CheckTable(const TablePage* table, Gfn base, Level level) {
    if (!seen_.insert(table).second) Complain("a table is linked twice");
    if (!table->in_use) Complain("a table is linked that counts as free");
    if (table->base != base) Complain("a table does not know its first frame");
    if (table->role.level() != level) Complain("a table does not know its level");
    if (table->role.address_space() != space_) Complain("a table does not know its address space");
  }

  // Harvests find every entry of a slot that logs.
  void CheckLine(const TablePage* table, int index, Gfn gfn, Level level) {
    if (table->lines_learned.load() != engine_.logging().begun()) return;
    const MemorySlot* slot = slots_.Find(space_, gfn);
    if (slot == nullptr || !slot->logs_dirty_pages()) return;
    if (table->base < slot->base || table->base + TablePages(level) > slot->end()) return;
    const uint64_t bit = uint64_t{1} << (index / TablePage::kEntriesPerLine);
    if ((table->lines.load() & bit) == 0) Complain("an entry that harvests pass over");
  }

  void CheckLegal(EptEntry entry, Level level) {
    const EntryDefect defect = engine_.CheckEntry(entry, level);
    if (defect != EntryDefect::kNone) Complain(EntryDefectName(defect));
  }

  void CheckMmio(Gfn gfn, Level level, EptEntry entry) {
    if (level != kLevel4K) Complain("an MMIO entry above level 1");
    if (entry.mmio_gfn() != gfn) Complain("an MMIO entry remembers another frame");
    const bool current = entry == EptEntry::Mmio(gfn, engine_.slots().generation(space_));
    if (current && slots_.Find(space_, gfn) != nullptr) {
      Complain("a current MMIO entry where a slot has memory");
    }
  }

  // A leaf lies inside one slot and has no right that the slot or the host denies.
  void CheckLeaf(Gfn gfn, Level level, EptEntry entry) {
    const MemorySlot* slot = slots_.Find(space_, gfn);
    if (slot == nullptr || slot->end() < gfn + level.pages()) {
      Complain("a leaf that is not inside one slot");
      return;
    }
    CheckRules(*slot, gfn, level, entry);
    if (entry.is_writable() && slot->is_read_only())
      Complain("a writable leaf in a read-only slot");
    if (entry.is_writable() && !entry.host_writable())
      Complain("a writable leaf of a page that is not");
    if (slot->logs_dirty_pages() && !entry.is_foreign()) CheckLogged(*slot, gfn, level);
    if (level > slot->state->MaxLevel(gfn)) Complain("a leaf larger than the slot permits");
    CheckType(gfn, level, entry);
  }

  // Where writes are logged, what can be written without a fault is found, or is marked already.
  void CheckLogged(const MemorySlot& slot, Gfn gfn, Level level) {
    const DirtyLog* log = slot.state->dirty_log();
    if (!mmu_.Walk(gfn).access.can_write()) return;
    if (level > kLevel4K) Complain("a large leaf that is writable where writes are logged");
    if (log == nullptr) return;
    const uint64_t index = slot.IndexOf(gfn);
    if (!log->IsPrepared(index)) Complain("a writable page that the dirty log has no room for");
    if (!IsByHardware(engine_.dirty_tracking()) && !log->IsDirty(index)) {
      Complain("a page that is writable and not marked where its fault should mark it");
    }
  }

  // Aging keeps no W, and A bits make it needless.
  void CheckTracking(EptEntry entry) {
    if (!entry.access_tracked()) return;
    if (engine_.accessed_dirty()) Complain("a leaf without rights where A bits are in use");
    if (entry.is_present() || entry.WithRightsRestored().is_writable()) {
      Complain("an aged leaf with rights, or with W kept");
    }
  }

  // A leaf is of one kind all over and has no right that the view denies.
  void CheckRules(const MemorySlot& slot, Gfn gfn, Level level, EptEntry entry) {
    const LeafPolicy& policy = view_.policy();
    const EptEntry full = entry.access_tracked() ? entry.WithRightsRestored() : entry;
    const ViewRule rule = policy.RuleOf(slot, gfn);
    if (!policy.IsUniform(gfn, level)) Complain("a leaf over two kinds of memory");
    if (!rule.rights.Covers(full.access())) Complain("a leaf with a right that the view denies");
    if (!rule.raises_ve && entry.suppress_ve() != engine_.pool().empty_entry().suppress_ve()) {
      Complain("a leaf that lets the guest hear of violations, or the other way round");
    }
    if (level > kLevel4K && policy.options().execute_4k_only && full.access().can_execute()) {
      Complain("a large leaf that is executable");
    }
    const std::optional<Backing> backing = policy.BackingOf(slot, gfn);
    if (entry.is_private() != policy.IsPrivate(gfn) || !backing.has_value()) {
      Complain("a private leaf of shared memory, or the other way round");
      return;
    }
    if (entry.is_foreign() != backing->is_foreign) {
      Complain("a leaf of the slot's frame where the view shows another, or the other way round");
    }
    if (backing->asks_host()) {
      leaves_.push_back({space_, view_.id(), level, gfn, slot, *backing, entry.frame()});
    } else if (entry.frame() != backing->frame->hfn) {
      Complain("a leaf of another frame than slot or view name");
    }
  }

  // Memory that is the guest's to type has the type of its MTRRs; a device is uncached.
  void CheckType(Gfn gfn, Level level, EptEntry entry) {
    const LeafPolicy& policy = view_.policy();
    if (const ViewRule rule = policy.RuleOf(gfn); rule.has_type) {
      if (entry.memory_type() != rule.type.type || entry.ignore_pat() != rule.type.ignore_pat) {
        Complain("a leaf of another memory type than the view gives");
      }
      return;
    }
    const MemoryTypeMap* types = policy.types();
    const bool device = entry.memory_type() == MemoryType::kUncacheable;
    if (types == nullptr) {
      if (!device && !entry.ignore_pat()) Complain("a leaf that obeys the PAT of the guest");
      return;
    }
    if (!types->IsUniform(gfn, level)) Complain("a leaf over two memory types");
    if (!device && !entry.ignore_pat() && entry.memory_type() != types->TypeOf(gfn)) {
      Complain("a leaf of another memory type than the MTRRs give");
    }
  }

  void Complain(std::string_view what) {
    if (status_.ok()) status_ = absl::InternalError(absl::StrFormat("%s: %s", where_, what));
  }

  Engine& engine_;
  const AddressSpaceId space_;
  const View& view_;
  const DirectMmu& mmu_;
  SlotReader slots_;
  absl::flat_hash_set<const TablePage*>& seen_;
  std::vector<MappedLeaf>& leaves_;
  std::string where_ = "root";
  absl::Status status_;
};

}  // namespace

absl::Status CheckEngineInvariants(Engine& engine, std::vector<MappedLeaf>& leaves) {
  absl::flat_hash_set<const TablePage*> seen;
  for (size_t space = 0; space < engine.address_spaces(); ++space) {
    const auto id = static_cast<AddressSpaceId>(space);
    for (size_t i = 0; i < engine.views(id).size(); ++i) {
      // The checker lives on the heap: AddressSanitizer's stack for use-after-return does not keep
      // 64-byte alignment.
      const View& view = engine.views(id)[i];
      TDP_RETURN_IF_ERROR(std::make_unique<Checker>(engine, id, view, seen, leaves)->Run());
    }
  }
  for (size_t space = 0; space < engine.address_spaces(); ++space) {
    TDP_RETURN_IF_ERROR(engine.space(static_cast<AddressSpaceId>(space)).CheckInvariants());
  }
  if (seen.size() > engine.pool().taken()) {
    return absl::InternalError(absl::StrFormat("%u tables are linked but the pool gave out %u",
                                               seen.size(), engine.pool().taken()));
  }
  return absl::OkStatus();
}

absl::Status CheckHostFrames(Engine& engine, absl::Span<const MappedLeaf> leaves,
                             uint64_t sequence) {
  MmuLock::Reader reader(engine.mmu_lock());
  for (const MappedLeaf& leaf : leaves) {
    const absl::StatusOr<HostPage> page =
        PageBehind(engine.backend(), leaf.slot, leaf.gfn, leaf.backing, Access::Read());
    if (page.ok() && page->hfn == leaf.frame) continue;
    const MmuReadSection section(reader);
    if (engine.sequence().MovedSince(sequence, leaf.backing.hva)) continue;
    return absl::InternalError(absl::StrFormat(
        "space %u view %u gfn 0x%x level %d: maps frame 0x%x, but the host has %s", leaf.space,
        leaf.view, leaf.gfn.raw(), leaf.level.raw(), leaf.frame.raw(),
        page.ok() ? absl::StrFormat("0x%x", page->hfn.raw()) : page.status().ToString()));
  }
  return absl::OkStatus();
}

}  // namespace tdp
