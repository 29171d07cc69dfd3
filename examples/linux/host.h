// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The host's side of the guest's memory: which frame stands behind each page, and how that changes.

#ifndef TDP_EXAMPLES_LINUX_HOST_H_
#define TDP_EXAMPLES_LINUX_HOST_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/vtx_backend.h"
#include "tdp/mmu/vm.h"

namespace tdp::linux_example {

// A backend whose frames move: an hva resolves to where its page is now.
class Host : public vtx::VtxBackend {
 public:
  static constexpr ByteCount kSpareBytes = MiB(1);

  Host(vtx::FrameArena& arena, const Capabilities& capabilities)
      : VtxBackend(arena, capabilities) {}

  // Returns memory for a guest, 2 MiB aligned, with whatever was in it. ResourceExhausted without
  // any.
  absl::StatusOr<Hva> Allocate(ByteCount bytes);
  void Free(Hva start, ByteCount bytes);

  // Lets the pages of [start, start + bytes) move from now on. Call it once.
  absl::Status MakeMovable(Hva start, ByteCount bytes);
  // Copies the page at `hva` to a spare frame, or from there back to its own, which stands behind
  // it from now on, and fills the frame that it leaves with 0xcc. False, with nothing done, if no
  // frame is spare. Between `Vm::BeginHostInvalidation` and its end; one thread moves.
  bool Move(Hva hva);
  bool is_home(Hva hva) const { return PageAt(hva) == reinterpret_cast<uint8_t*>(hva.raw()); }
  // Returns where the page at `hva` is.
  uint8_t* PageAt(Hva hva) const;
  // Copies what is at `hva`, within a page, wherever that is moving.
  void Read(Hva hva, absl::Span<uint8_t> to) const;

  absl::StatusOr<HostPage> Resolve(Hva hva, Access access) override;
  void Kick(absl::Span<const VcpuId> vcpus) override;
  uint64_t kicks() const { return kicks_.load(std::memory_order_relaxed); }

 private:
  Hva start_;
  ByteCount bytes_ = 0;
  std::vector<std::atomic<uint64_t>> moved_;  // by page: its frame's address, 0 while at home
  std::vector<std::atomic<uint32_t>> away_;   // by 2 MiB: how many are not at home
  std::deque<Hpa> spare_;
  std::atomic<uint64_t> changes_ = 0;  // of places; odd while one is under way
  std::atomic<uint64_t> kicks_ = 0;
};

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_HOST_H_
