// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `StoreHistory` watches the tables through an operation: after each store to an entry that a CPU
// could read, every page of the guest is translated as a CPU would, and afterwards each of these
// translations must be what it was before the operation or what it is after it, and never a third
// thing.

#ifndef TDP_TESTS_MODEL_STORE_HISTORY_H_
#define TDP_TESTS_MODEL_STORE_HISTORY_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/vm.h"

namespace tdp::model {

// Says what hardware makes of a page.
struct Seen {
  uint64_t frame = 0;     // of the 4 KiB page; 0 if it is not mapped
  uint64_t rights = 0;    // AND over the walk; 0 if it is not mapped
  uint64_t type = 0;      // memory type and IPAT, as bits of the leaf
  bool is_mmio = false;   // misconfigured on purpose
  bool accessed = false;  // of the leaf
  bool dirty = false;

  bool is_mapped() const { return rights != 0; }
  // Compares without A and D: they say what was done with a page, not where it leads.
  bool LeadsWhere(const Seen& other) const {
    return frame == other.frame && rights == other.rights && type == other.type &&
           is_mmio == other.is_mmio;
  }
  friend bool operator==(const Seen&, const Seen&) = default;
  std::string DebugString() const {
    return absl::StrFormat("frame %#x rights %x type %#x%s%s%s", frame, rights, type,
                           is_mmio ? " mmio" : "", accessed ? " A" : "", dirty ? " D" : "");
  }
};

// Says which flags an operation may take away: a store must lose no others while the page is
// mapped.
struct FlagsLost {
  bool accessed = false;
  bool dirty = false;
};

class StoreHistory : public EntryStoreHook {
 public:
  // Watches pages [0, `pages`) of a view of `vm`, whose tables lie at their physical addresses plus
  // `offset`.
  StoreHistory(Vm& vm, uint64_t pages, uintptr_t offset = 0, ViewId view = kBaseView)
      : vm_(vm), pages_(pages), offset_(offset), view_(view) {}

  // Runs `operation` on this thread alone. Returns what a store broke, or nothing.
  std::optional<std::string> Watch(const std::function<void()>& operation,
                                   const FlagsLost& allowed = {}) {
    const std::vector<Seen> before = Snapshot();
    now_ = before;
    changes_.clear();
    stores_ = 0;
    SetEntryStoreHook(this);
    operation();
    SetEntryStoreHook(nullptr);
    now_ = Snapshot();
    for (const Change& change : changes_) {
      const Seen& old = before[change.page];
      const Seen& last = now_[change.page];
      if (!change.seen.LeadsWhere(old) && !change.seen.LeadsWhere(last)) {
        return Describe(change, old, last, "a third thing");
      }
      if (!change.seen.is_mapped() || change.seen.frame != old.frame) continue;
      if (old.accessed && !change.seen.accessed && !allowed.accessed) {
        return Describe(change, old, last, "A is lost");
      }
      if (old.dirty && !change.seen.dirty && !allowed.dirty) {
        return Describe(change, old, last, "D is lost");
      }
    }
    return std::nullopt;
  }

  uint64_t stores() const { return stores_; }
  const Seen& Page(uint64_t page) const { return now_[page]; }

  std::vector<Seen> Snapshot() const {
    std::vector<Seen> snapshot(pages_);
    for (uint64_t page = 0; page < pages_; ++page) snapshot[page] = Translate(page);
    return snapshot;
  }

 private:
  struct Change {
    uint64_t store;  // counted from 1
    uint64_t page;
    Seen seen;
  };

  void OnStore(const uint64_t*, EptEntry, EptEntry) override {
    ++stores_;
    for (uint64_t page = 0; page < pages_; ++page) {
      const Seen seen = Translate(page);
      if (seen == now_[page]) continue;
      now_[page] = seen;
      changes_.push_back({stores_, page, seen});
    }
  }

  // Walks by itself, with no lock and no help from the engine's.
  Seen Translate(uint64_t page) const {
    Seen seen;
    const Eptp eptp = vm_.eptp(0, view_);
    uint64_t rights = ept::kRightsMask;
    uint64_t table = eptp.root().raw();
    for (int level = eptp.levels();; --level) {
      const uint64_t index = page >> 9 * (level - 1) & 511;
      const uint64_t entry =
          EntryRef(reinterpret_cast<uint64_t*>(table + offset_) + index).Load().raw();
      if ((entry & ept::kRightsMask) == 0) return {};
      if (EptEntry(entry).is_mmio()) {
        seen.is_mmio = true;
        return seen;
      }
      rights &= entry;
      const uint64_t address = entry & ept::kAddressMask;
      if (level == 1 || (entry & ept::kLargePage) != 0) {
        seen.frame = (address >> kPageShift) + (page & ((uint64_t{1} << 9 * (level - 1)) - 1));
        seen.rights = rights;
        seen.type = entry & (ept::kMemoryTypeMask | ept::kIgnorePat);
        seen.accessed = (entry & ept::kAccessed) != 0;
        seen.dirty = (entry & ept::kDirty) != 0;
        return seen;
      }
      table = address;
    }
  }

  static std::string Describe(const Change& change, const Seen& old, const Seen& last,
                              const char* what) {
    return absl::StrFormat("%s: page %#x after store %d is %s; before: %s, in the end: %s", what,
                           change.page, change.store, change.seen.DebugString(), old.DebugString(),
                           last.DebugString());
  }

  Vm& vm_;
  const uint64_t pages_;
  const uintptr_t offset_;
  const ViewId view_;
  std::vector<Seen> now_;
  std::vector<Change> changes_;
  uint64_t stores_ = 0;
};

}  // namespace tdp::model

#endif  // TDP_TESTS_MODEL_STORE_HISTORY_H_
