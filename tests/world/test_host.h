// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tests that need no simulated CPU have this machine: a host whose answers the test decides.

#ifndef TDP_TESTS_WORLD_TEST_HOST_H_
#define TDP_TESTS_WORLD_TEST_HOST_H_

#include <atomic>
#include <cstddef>
#include <functional>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/vm.h"

namespace tdp {

// Is what the CPU says of an access to a page that nothing maps.
inline constexpr auto kReadFault =
    ExitQualification::Make(Access::Read(), Access::None(), true, true);
inline constexpr auto kWriteFault =
    ExitQualification::Make(Access::Write(), Access::None(), true, true);

// Every host page is there, and its frame follows from its address: by default guest memory is this
// process's own. Members are set before the threads of a test begin, but for the atomic ones.
class TestHost : public MinimalBackend {
 public:
  const Capabilities& capabilities() const override { return offered; }
  absl::StatusOr<HostPage> Resolve(Hva hva, Access access) override {
    resolves.fetch_add(1, std::memory_order_relaxed);
    if (on_resolve) on_resolve();
    if (!answer.ok()) return answer;
    if (missing.contains(hva)) return absl::NotFoundError("nothing is mapped there");
    HostPage page;
    page.hfn = frame_of ? frame_of(hva) : Hfn((hva.raw() + offset) >> kPageShift);
    page.order = order;
    page.writable = writable || access.can_write();
    page.memory_type = memory_type;
    if (on_answer) on_answer(hva, access, page);
    return page;
  }
  absl::StatusOr<size_t> ResolveRange(Hva hva, PageCount pages, Access access,
                                      absl::Span<HostRun> runs) override {
    if (run == PageCount(0)) return MinimalBackend::ResolveRange(hva, pages, access, runs);
    runs[0] = {*Resolve(hva, access), run};
    return 1;
  }
  absl::StatusOr<Hpa> AllocateTableBlock() override {
    if (on_block != nullptr) std::exchange(on_block, nullptr)();
    const bool refuses = block_to_refuse > 0 && --block_to_refuse == 0;
    if (!refuses && blocks.fetch_sub(1, std::memory_order_relaxed) > 0) {
      given_blocks.fetch_add(1, std::memory_order_relaxed);
      return MinimalBackend::AllocateTableBlock();
    }
    if (!refuses) blocks.fetch_add(1, std::memory_order_relaxed);
    refused_blocks.fetch_add(1, std::memory_order_relaxed);
    return absl::ResourceExhaustedError("no block left");
  }
  void FreeTableBlock(Hpa block) override {
    freed_blocks.fetch_add(1, std::memory_order_relaxed);
    MinimalBackend::FreeTableBlock(block);
  }
  void InvalidateAll(VcpuId) override {
    invalidations_of_all.fetch_add(1, std::memory_order_relaxed);
  }
  void Kick(absl::Span<const VcpuId> vcpus) override {
    kicks.fetch_add(static_cast<int>(vcpus.size()), std::memory_order_relaxed);
    const auto hook = on_kick;  // it may put another in its place
    if (hook) hook();
  }

  // `capabilities` answers this; it is read when a `Vm` is made.
  Capabilities offered = MinimalBackend::capabilities();
  int order = 0;  // of every page
  bool writable = true;
  uint64_t offset = 0;  // bytes from a page's address to its memory
  MemoryType memory_type = MemoryType::kWriteBack;
  std::function<Hfn(Hva)> frame_of;  // in place of that: the frame of each page
  PageCount run;  // if any: of every answer about a range, however many pages it is asked for
  std::set<Hva> missing;
  absl::Status answer;  // of every page, if it is no OK
  std::function<void()> on_resolve;
  std::function<void(Hva, Access, HostPage&)> on_answer;  // may change the answer
  std::function<void()> on_kick;
  std::function<void()> on_block;     // once: by the next call for a block
  std::atomic<int> blocks = 1 << 20;  // of tables that can still be had
  int block_to_refuse = 0;            // the call for a block that fails, the next is 1; 0: none
  std::atomic<int> given_blocks = 0;
  std::atomic<int> refused_blocks = 0;
  std::atomic<int> freed_blocks = 0;
  std::atomic<int> resolves = 0;
  std::atomic<int> invalidations_of_all = 0;
  std::atomic<int> kicks = 0;  // vCPUs kicked
};

// Returns the entry that maps `gpa`, for a test that plays the CPU; null if none does.
inline uint64_t* EntryOf(const Vm& vm, Gpa gpa) {
  const Eptp eptp = vm.eptp();
  auto* table = reinterpret_cast<uint64_t*>(eptp.root().raw());
  for (Level level = eptp.root_level();; level = level.below()) {
    uint64_t* where = table + level.IndexOf(Gfn::Of(gpa));
    const EptEntry entry = EntryRef(where).Load();
    if (entry.kind(level) == EntryKind::kLeaf) return where;
    if (entry.kind(level) != EntryKind::kTable) return nullptr;
    table = reinterpret_cast<uint64_t*>(entry.address().raw());
  }
}

}  // namespace tdp

#endif  // TDP_TESTS_WORLD_TEST_HOST_H_
