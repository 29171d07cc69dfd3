// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/space/view.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"

namespace tdp {

absl::StatusOr<View*> ViewSet::Make(TableInHand& table) {
  const size_t size = size_.load(std::memory_order_relaxed);
  for (size_t i = kBaseView + 1; i < size; ++i) {
    if (!views_[i]->is_open()) return views_[i].get();
  }
  if (size == kMaxViews) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("views: the address space has %u already", size));
  }
  TDP_ASSIGN_OR_RETURN(TablePage * root, table.Take());
  views_[size] = std::make_unique<View>(static_cast<ViewId>(size), mmu_, policy_, pool_, root);
  size_.store(size + 1, std::memory_order_release);
  return views_[size].get();
}

absl::StatusOr<Hpa> ViewSet::EptpList(MmuLock& lock, TableInHand& table) {
  if (!has_list()) {
    TDP_ASSIGN_OR_RETURN(TablePage * list, table.Take());
    list->role = PageRole();  // no table: nothing is below it
    std::fill_n(list->entries(), Level::kEntries, 0);
    const MmuWriteSection section(lock);
    list_.store(list, std::memory_order_relaxed);
    for (size_t i = 0; i < size(); ++i) UpdateList(*views_[i]);
  }
  return pool_.HpaOf(list_.load(std::memory_order_relaxed)->entries());
}

// CPUs in the guest read it. No EPTP is 0, so VMFUNC refuses what is not there.
void ViewSet::UpdateList(const View& view) {
  AssertWriting();
  TablePage* list = list_.load(std::memory_order_relaxed);
  if (list == nullptr) return;
  const uint64_t eptp = view.is_open() ? view.mmu().eptp().raw() : 0;
  AtomicRef<uint64_t>(list->entries()[view.id()]).store(eptp, std::memory_order_release);
}

Eptp ViewSet::ListedEptp(ViewId id) const {
  TablePage* list = list_.load(std::memory_order_relaxed);
  return Eptp(list == nullptr ? 0 : list->entries()[id]);
}

void ViewSet::TakeTables(TableList& out) {
  for (size_t i = 0; i < size(); ++i) out.Push(views_[i]->mmu().TakeRoot());
  if (TablePage* list = list_.exchange(nullptr)) out.Push(list);
}

}  // namespace tdp
