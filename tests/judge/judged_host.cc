// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/judge/judged_host.h"

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"

namespace tdp::judge_test {
namespace {

bool forgets_flushes = false;

}  // namespace

JudgedHost::JudgedHost(bool linear) : linear_(linear) {
  capabilities_.ept = EptCapabilities::All();
  capabilities_.shadow_paging = true;
  void* const frame = tdpj_alloc();
  capabilities_.direct_map_offset = reinterpret_cast<uintptr_t>(frame) - tdpj_phys(frame);
  tdpj_free(frame);
}

JudgedHost::~JudgedHost() {
  for (void* const table : guest_tables_) tdpj_free(table);
}

void JudgedHost::Put(uint64_t gpa, uint64_t hpa, uint64_t size, bool writable) {
  for (uint64_t at = 0; at < size; at += kPageSize) pages_[gpa + at] = {hpa + at, writable};
}

void JudgedHost::Take(uint64_t gpa, uint64_t size) {
  pages_.erase(pages_.lower_bound(gpa), pages_.lower_bound(gpa + size));
}

void JudgedHost::SetWritable(uint64_t gpa, uint64_t size, bool writable) {
  for (auto page = pages_.lower_bound(gpa); page != pages_.end() && page->first < gpa + size;
       ++page) {
    page->second.writable = writable;
  }
}

bool JudgedHost::IsWritable(uint64_t gpa) const {
  const auto page = pages_.find(gpa);
  return page != pages_.end() && page->second.writable;
}

uint64_t* JudgedHost::AddGuestTable(uint64_t gpa) {
  void* const frame = tdpj_alloc();
  if (frame == nullptr) return nullptr;
  std::memset(frame, 0, kPageSize);
  guest_tables_.push_back(frame);
  Put(gpa, tdpj_phys(frame), kPageSize, true);
  return static_cast<uint64_t*>(frame);
}

absl::StatusOr<Hpa> JudgedHost::AllocateTableBlock() {
  void* const block = tdpj_alloc_frames(kTableBlockBytes / kPageSize);
  if (block == nullptr) return absl::ResourceExhaustedError("the judge gives no memory");
  return Hpa(tdpj_phys(block));
}

void JudgedHost::FreeTableBlock(Hpa block) { tdpj_free(tdpj_virt(block.raw())); }

// Returns the order of the largest aligned piece of host memory around the page: of 1 GiB, 2 MiB or
// 4 KiB.
int JudgedHost::OrderAt(uint64_t gpa) const {
  for (const int order : {18, 9}) {
    const uint64_t size = kPageSize << order;
    const uint64_t begin = gpa & ~(size - 1);
    auto page = pages_.find(begin);
    if (page == pages_.end() || page->second.hpa % size != 0) continue;
    const Page first = page->second;
    const auto is_one = [&] {
      for (uint64_t at = begin; at < begin + size; at += kPageSize, ++page) {
        if (page == pages_.end() || page->first != at) return false;
        if (page->second.hpa != first.hpa + (at - begin)) return false;
        if (page->second.writable != first.writable) return false;
      }
      return true;
    };
    if (is_one()) return order;
  }
  return 0;
}

absl::StatusOr<HostPage> JudgedHost::Resolve(Hva hva, Access access) {
  const uint64_t gpa = (hva.raw() - kStart) & ~kPageOffsetMask;
  const auto page = pages_.find(gpa);
  if (page == pages_.end()) return absl::NotFoundError("nothing is mapped there");
  if (access.can_write() && !page->second.writable) return absl::PermissionDeniedError("read-only");
  return HostPage{.hfn = Hfn(page->second.hpa >> kPageShift),
                  .order = OrderAt(gpa),
                  .writable = page->second.writable};
}

void JudgedHost::SetForgetsFlushes(bool forgets) { forgets_flushes = forgets; }

void JudgedHost::Invalidate(VcpuId, Eptp root) {
  if (!linear_ && !forgets_flushes) tdpj_invept(1, root.raw());
}

void JudgedHost::InvalidateAll(VcpuId) {
  if (!linear_ && !forgets_flushes) tdpj_invept(2, 0);
}

void JudgedHost::InvalidateLinear(VcpuId) {
  if (forgets_flushes) return;
  if (linear_) {
    tdpj_mov_cr3();
  } else {
    tdpj_invvpid(1, 1, 0);
  }
}

}  // namespace tdp::judge_test
