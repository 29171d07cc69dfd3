// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/large_page_permits.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/base/level.h"
#include "tdp/base/sync.h"

namespace tdp {
namespace {

template <typename T>
T* MakeAt(Atomic<T*>& place) {
  T* present = place.load(std::memory_order_acquire);
  if (present != nullptr) return present;
  std::unique_ptr<T> fresh(new (std::nothrow) T());
  if (fresh == nullptr) return nullptr;
  if (!place.compare_exchange_strong(present, fresh.get(), std::memory_order_acq_rel,
                                     std::memory_order_acquire)) {
    return present;
  }
  return fresh.release();
}

}  // namespace

LargePagePermits::LargePagePermits(Gfn base, PageCount pages, Hva hva)
    : base_(base), end_(base + pages), incongruence_(base.raw() ^ (hva.raw() >> kPageShift)) {}

LargePagePermits::OneGiB::~OneGiB() {
  for (Atomic<TwoMiB*>& two_mib : pages) delete two_mib.load(std::memory_order_relaxed);
}

LargePagePermits::~LargePagePermits() {
  Directory* const directory = directory_.load(std::memory_order_relaxed);
  if (directory == nullptr) return;
  for (uint64_t i = 0; i < directory_size(); ++i) {
    delete directory[i].load(std::memory_order_relaxed);
  }
  delete[] directory;
}

uint64_t LargePagePermits::directory_size() const { return GiBIndex(end_ - PageCount(1)) + 1; }

uint64_t LargePagePermits::TrackedPagesIn(const Directory* directory, Gfn gfn, Level level) const {
  const OneGiB* const gib = directory[GiBIndex(gfn)].load(std::memory_order_acquire);
  if (gib == nullptr) return 0;
  if (level >= kLevel1G) return gib->tracked.load(std::memory_order_acquire);
  return gib->tracked_by_2m[gfn.raw() / kPagesPerTwoMiB % 512].load(std::memory_order_acquire);
}

LargePagePermits::OneGiB* LargePagePermits::MakeGiB(Gfn gfn) {
  Directory* present = directory_.load(std::memory_order_acquire);
  if (present == nullptr) {
    std::unique_ptr<Directory[]> fresh(new (std::nothrow) Directory[directory_size()]());
    if (fresh == nullptr) return nullptr;
    if (directory_.compare_exchange_strong(present, fresh.get(), std::memory_order_acq_rel,
                                           std::memory_order_acquire)) {
      present = fresh.release();
    }
  }
  return MakeAt(present[GiBIndex(gfn)]);
}

LargePagePermits::TwoMiB* LargePagePermits::MakeTwoMiB(OneGiB* gib, Gfn gfn) {
  return MakeAt(gib->pages[gfn.raw() / kPagesPerTwoMiB % 512]);
}

absl::Status LargePagePermits::AddWriteTracking(Gfn gfn) {
  TDP_CHECK(gfn >= base_ && gfn < end_);
  OneGiB* const gib = MakeGiB(gfn);
  TwoMiB* const two_mib = gib == nullptr ? nullptr : MakeTwoMiB(gib, gfn);
  if (two_mib == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory to write-track frame ", ToString(gfn)));
  }
  // The large frames are counted first: nobody who sees the page tracked finds a large leaf
  // permitted.
  gib->tracked.fetch_add(1, std::memory_order_acq_rel);
  gib->tracked_by_2m[gfn.raw() / kPagesPerTwoMiB % 512].fetch_add(1, std::memory_order_acq_rel);
  two_mib->pages[gfn.raw() % kPagesPerTwoMiB].fetch_add(1, std::memory_order_acq_rel);
  return absl::OkStatus();
}

absl::Status LargePagePermits::PrepareWriteTracking(Gfn gfn) {
  TDP_CHECK(gfn >= base_ && gfn < end_);
  OneGiB* const gib = MakeGiB(gfn);
  if (gib != nullptr && MakeTwoMiB(gib, gfn) != nullptr) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("no memory to write-track frame ", ToString(gfn)));
}

void LargePagePermits::RemoveWriteTracking(Gfn gfn) {
  OneGiB* const gib = FindGiB(gfn);
  TwoMiB* const two_mib = FindTwoMiB(gfn);
  TDP_CHECK(gib != nullptr && two_mib != nullptr);
  const uint32_t before =
      two_mib->pages[gfn.raw() % kPagesPerTwoMiB].fetch_sub(1, std::memory_order_acq_rel);
  TDP_CHECK(before != 0);
  gib->tracked_by_2m[gfn.raw() / kPagesPerTwoMiB % 512].fetch_sub(1, std::memory_order_acq_rel);
  gib->tracked.fetch_sub(1, std::memory_order_acq_rel);
}

size_t LargePagePermits::bytes() const {
  size_t bytes = sizeof(*this);
  const Directory* const directory = directory_.load(std::memory_order_acquire);
  if (directory == nullptr) return bytes;
  bytes += directory_size() * sizeof(Directory);
  for (uint64_t i = 0; i < directory_size(); ++i) {
    const OneGiB* const gib = directory[i].load(std::memory_order_acquire);
    if (gib == nullptr) continue;
    bytes += sizeof(OneGiB);
    for (const Atomic<TwoMiB*>& two_mib : gib->pages) {
      if (two_mib.load(std::memory_order_acquire) != nullptr) bytes += sizeof(TwoMiB);
    }
  }
  return bytes;
}

}  // namespace tdp
