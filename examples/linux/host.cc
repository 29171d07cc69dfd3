// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/host.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "tdp/base/status_macros.h"

namespace tdp::linux_example {
namespace {

constexpr int kLargeOrder = 9;
constexpr uint64_t kPagesOf2M = 512;
constexpr uint8_t kPoison = 0xcc;

}  // namespace

absl::StatusOr<Hva> Host::Allocate(ByteCount bytes) {
  TDP_ASSIGN_OR_RETURN(const Hpa hpa, arena().Allocate(bytes, MiB(2)));
  return arena().HvaOf(hpa);
}

void Host::Free(Hva start, ByteCount bytes) { arena().Free(arena().HpaOf(start), bytes); }

absl::Status Host::MakeMovable(Hva start, ByteCount bytes) {
  TDP_ASSIGN_OR_RETURN(const Hpa spare, arena().Allocate(kSpareBytes, kPageSize));
  for (ByteCount at = 0; at < kSpareBytes; at += kPageSize) spare_.push_back(spare + at);
  start_ = start;
  bytes_ = bytes;
  moved_ = std::vector<std::atomic<uint64_t>>(bytes / kPageSize);
  away_ = std::vector<std::atomic<uint32_t>>(bytes / MiB(2));
  return absl::OkStatus();
}

// A spare frame that is left is the last to be used again: what still reads it sees the poison for
// long.
bool Host::Move(Hva hva) {
  const uint64_t page = (hva - start_) / kPageSize;
  uint8_t* const home = reinterpret_cast<uint8_t*>(hva.raw());
  uint8_t* const from = PageAt(hva);
  if (from == home && spare_.empty()) return false;
  uint8_t* const to = from == home ? arena().PointerTo<uint8_t>(spare_.front()) : home;
  changes_.fetch_add(1, std::memory_order_seq_cst);
  memcpy(to, from, kPageSize);
  memset(from, kPoison, kPageSize);
  if (from == home) {
    away_[page / kPagesOf2M].fetch_add(1, std::memory_order_seq_cst);
    moved_[page].store(spare_.front().raw(), std::memory_order_seq_cst);
    spare_.pop_front();
  } else {
    spare_.push_back(Hpa(moved_[page].exchange(0, std::memory_order_seq_cst)));
    away_[page / kPagesOf2M].fetch_sub(1, std::memory_order_seq_cst);
  }
  changes_.fetch_add(1, std::memory_order_seq_cst);
  return true;
}

uint8_t* Host::PageAt(Hva hva) const {
  const uint64_t moved = moved_.empty() || hva < start_ || hva - start_ >= bytes_
                             ? 0
                             : moved_[(hva - start_) / kPageSize].load(std::memory_order_seq_cst);
  return moved == 0 ? reinterpret_cast<uint8_t*>(hva.raw())
                    : const_cast<Host*>(this)->arena().PointerTo<uint8_t>(Hpa(moved));
}

void Host::Read(Hva hva, absl::Span<uint8_t> to) const {
  const ByteCount offset = hva.raw() % kPageSize;
  for (;;) {
    const uint64_t before = changes_.load(std::memory_order_seq_cst);
    memcpy(to.data(), PageAt(hva - offset) + offset, to.size());
    if (before % 2 == 0 && changes_.load(std::memory_order_seq_cst) == before) return;
  }
}

absl::StatusOr<HostPage> Host::Resolve(Hva hva, Access access) {
  if (moved_.empty() || hva < start_ || hva - start_ >= bytes_) {
    return VtxBackend::Resolve(hva, access);
  }
  const uint64_t page = (hva - start_) / kPageSize;
  const uint64_t moved = moved_[page].load(std::memory_order_seq_cst);
  if (moved != 0) return HostPage{.hfn = Hfn::Of(Hpa(moved))};
  TDP_ASSIGN_OR_RETURN(HostPage home, VtxBackend::Resolve(hva, access));
  const bool is_whole = away_[page / kPagesOf2M].load(std::memory_order_seq_cst) == 0;
  home.order = std::min(home.order, is_whole ? kLargeOrder : 0);
  return home;
}

void Host::Kick(absl::Span<const VcpuId> vcpus) {
  kicks_.fetch_add(vcpus.size(), std::memory_order_relaxed);
  VtxBackend::Kick(vcpus);
}

}  // namespace tdp::linux_example
