// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/explored_host.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "tdp/base/check.h"
#include "tests/explore/guest_cpu.h"

namespace tdp::explore {

Arena::Arena() {
  constexpr ByteCount kAlignment = MiB(2);
  mapping_ = mmap(nullptr, kBytes + kAlignment, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TDP_CHECK(mapping_ != MAP_FAILED);
  const auto start = reinterpret_cast<uintptr_t>(mapping_);
  base_ = reinterpret_cast<std::byte*>((start + kAlignment - 1) & ~(kAlignment - 1));
}

Arena::~Arena() { munmap(mapping_, kBytes + MiB(2)); }

ExploredHost::ExploredHost(FiberScheduler& fibers, Arena& arena, const Capabilities& capabilities,
                           int order)
    : fibers_(fibers), arena_(arena), capabilities_(capabilities), order_(order) {
  capabilities_.direct_map_offset = reinterpret_cast<uintptr_t>(arena.base());
  for (HostPageNumber page = 0; page < kPages; ++page)
    frames_[page] = kFirstFrame + PageCount(page);
}

void ExploredHost::Attach(VcpuId id, GuestCpu* cpu) {
  if (id >= cpus_.size()) cpus_.resize(id + 1, nullptr);
  cpus_[id] = cpu;
}

Hfn ExploredHost::Move(HostPageNumber page) {
  const Hfn old = frames_[page];
  frames_[page] = kFirstSpare + PageCount(spare_owners_.size());
  std::memcpy(AtPage(page), At(old.address()), kPageSize);
  spare_owners_.push_back(page);
  broken_[page / kPagesPerLarge] = true;
  return old;
}

HostPageNumber ExploredHost::OwnerOf(Hfn frame) const {
  if (frame >= kFirstFrame && frame < kFirstFrame + PageCount(kPages)) {
    return static_cast<HostPageNumber>((frame - kFirstFrame).raw());
  }
  if (frame < kFirstSpare) return kPages;
  const uint64_t spare = (frame - kFirstSpare).raw();
  return spare < spare_owners_.size() ? spare_owners_[spare] : kPages;
}

bool ExploredHost::IsRevoked(Hfn frame) const {
  return std::find(revoked_.begin(), revoked_.end(), frame) != revoked_.end();
}

absl::StatusOr<Hpa> ExploredHost::AllocateTableBlock() {
  fibers_.Reach();
  const int block = std::countr_one(blocks_in_use_);
  if (block >= kBlocks) return absl::ResourceExhaustedError("table blocks");
  blocks_in_use_ |= uint64_t{1} << block;
  return kFirstBlock + static_cast<uint64_t>(block) * kTableBlockBytes;
}

void ExploredHost::FreeTableBlock(Hpa block) {
  fibers_.Reach();
  blocks_in_use_ &= ~(uint64_t{1} << ((block - kFirstBlock) / kTableBlockBytes));
}

// Others may run before the page is read and after, so the answer may be old before the caller has
// it.
absl::StatusOr<HostPage> ExploredHost::Resolve(Hva hva, Access /*access*/) {
  fibers_.Reach();
  const uint64_t number = (hva - kRam) >> kPageShift;
  if (hva < kRam || number >= kPages) return absl::NotFoundError("nothing is mapped there");
  if (number < kCounted && fibers_.running()) ++asked_[fibers_.current()][number];
  HostPage page;
  page.hfn = frames_[number];
  page.order = broken_[number / kPagesPerLarge] ? 0 : order_;
  fibers_.Reach();
  return page;
}

void ExploredHost::Invalidate(VcpuId vcpu, Eptp root) {
  fibers_.Reach();
  cpus_[vcpu]->FlushRoot(root.root());
}

void ExploredHost::InvalidateAll(VcpuId vcpu) {
  fibers_.Reach();
  cpus_[vcpu]->FlushAll();
}

void ExploredHost::InvalidateLinear(VcpuId vcpu) {
  fibers_.Reach();
  cpus_[vcpu]->FlushLinear();
}

void ExploredHost::Kick(absl::Span<const VcpuId> vcpus) {
  for (const VcpuId vcpu : vcpus) {
    fibers_.Reach();
    if (vcpu < cpus_.size() && cpus_[vcpu] != nullptr) cpus_[vcpu]->Kick();
  }
  fibers_.Tell();
}

}  // namespace tdp::explore
