// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This is the machine under the engine: host memory of which the test knows every frame's owner,
// and the calls of a `Backend`. It is cheap to make anew for each run.

#ifndef TDP_TESTS_EXPLORE_EXPLORED_HOST_H_
#define TDP_TESTS_EXPLORE_EXPLORED_HOST_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/mmu/backend.h"
#include "tests/explore/fiber_scheduler.h"

namespace tdp::explore {

class GuestCpu;

// Numbers a page of host virtual memory: page n stands at `HvaOf(n)`.
using HostPageNumber = uint32_t;

// Holds physical memory that lives from run to run. What one run leaves there disturbs no other:
// tables are filled before they are used, and pages with contents are written when a run begins.
class Arena {
 public:
  static constexpr ByteCount kBytes = MiB(64);
  Arena();
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  std::byte* base() const { return base_; }

 private:
  void* mapping_;
  std::byte* base_;  // aligned to 2 MiB
};

class ExploredHost : public Backend {
 public:
  static constexpr Hva kRam{0x7000'0000'0000};
  static constexpr HostPageNumber kPages = 2048;
  static constexpr uint64_t kPagesPerLarge = 512;

  // Host memory comes in pieces of `order`, 0 or 9.
  ExploredHost(FiberScheduler& fibers, Arena& arena, const Capabilities& capabilities, int order);

  static Hva HvaOf(HostPageNumber page) { return kRam + page * kPageSize; }
  std::byte* At(Hpa hpa) const { return arena_.base() + hpa.raw(); }
  uint64_t* EntriesAt(Hpa table) const { return reinterpret_cast<uint64_t*>(At(table)); }
  std::byte* AtPage(HostPageNumber page) const { return At(frames_[page].address()); }
  FiberScheduler& fibers() { return fibers_; }

  // Says which CPU runs vCPU `id`.
  void Attach(VcpuId id, GuestCpu* cpu);

  // --- The host's own page table

  // Gives page `page` another frame from now on, with the old one's contents. Returns the old one.
  Hfn Move(HostPageNumber page);
  // Returns the frame that page `page` has now.
  Hfn FrameOf(HostPageNumber page) const { return frames_[page]; }
  // Returns the page whose memory `frame` is or was; `kPages` for none.
  HostPageNumber OwnerOf(Hfn frame) const;
  // Returns whether the page has another frame than in the beginning.
  bool HasMoved(HostPageNumber page) const { return frames_[page] >= kFirstSpare; }
  // Lets nobody use the frame from now on.
  void Revoke(Hfn frame) { revoked_.push_back(frame); }
  bool IsRevoked(Hfn frame) const;

  // `MostAsked` returns how often `thread` has asked for that page of [first, end) for which it
  // asked most, since `ForgetAsked`.
  void ForgetAsked(int thread) { asked_[thread] = {}; }
  uint32_t MostAsked(int thread, HostPageNumber first, HostPageNumber end) const {
    const auto asked = asked_[thread].begin();
    return first >= end ? 0 : *std::max_element(asked + first, asked + end);
  }

  // --- Backend
  const Capabilities& capabilities() const override { return capabilities_; }
  absl::StatusOr<Hpa> AllocateTableBlock() override;
  void FreeTableBlock(Hpa block) override;
  absl::StatusOr<HostPage> Resolve(Hva hva, Access access) override;
  void Invalidate(VcpuId vcpu, Eptp root) override;
  void InvalidateAll(VcpuId vcpu) override;
  void InvalidateLinear(VcpuId vcpu) override;
  void Kick(absl::Span<const VcpuId> vcpus) override;

 private:
  static constexpr Hpa kFirstBlock{MiB(2)};
  static constexpr int kBlocks = 40;
  static constexpr Hfn kFirstFrame{MiB(16) >> kPageShift};
  static constexpr Hfn kFirstSpare{MiB(32) >> kPageShift};

  FiberScheduler& fibers_;
  Arena& arena_;
  Capabilities capabilities_;
  const int order_;
  std::array<Hfn, kPages> frames_;
  std::vector<HostPageNumber> spare_owners_;  // by spare frame
  std::vector<Hfn> revoked_;
  std::array<bool, kPages / kPagesPerLarge> broken_{};  // a large piece that is one no more
  uint64_t blocks_in_use_ = 0;                          // a bit each
  // Only requests for the first pages are counted, by thread.
  static constexpr HostPageNumber kCounted = 64;
  std::array<std::array<uint32_t, kCounted>, kMaxThreads> asked_{};
  std::vector<GuestCpu*> cpus_;
};

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_EXPLORED_HOST_H_
