// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This guest on the software CPU has slots that log dirty pages, and a copy of its memory that is
// kept up as live migration would: each page that a take of the log shows is copied. A write that
// no take shows is a difference in the end.

#ifndef TDP_TESTS_MMU_LOGGING_GUEST_H_
#define TDP_TESTS_MMU_LOGGING_GUEST_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/sim_world.h"

namespace tdp {

struct LoggingGuestOptions {
  DirtyTracking tracking = DirtyTracking::kDirtyBits;
  int vcpus = 2;
  bool stepped = true;  // one thread runs all vCPUs; else each has its own
  bool oracle = true;
  sim::CachePolicy policy = sim::CachePolicy::kRealistic;
};

class LoggingGuest : public SimWorld {
 public:
  static constexpr ByteCount kMemory = MiB(256);

  explicit LoggingGuest(const LoggingGuestOptions& options = {}, VmOptions vm_options = {})
      : SimWorld(WorldOptions(options, vm_options)), options_(options) {
    entries_.resize(static_cast<size_t>(options.vcpus));
    if (options.stepped) {
      backend().leave = [this](VcpuId id) {
        if (before_leaving) before_leaving(static_cast<int>(id));
        Leave(static_cast<int>(id));
      };
    }
  }
  ~LoggingGuest() {
    for (int i = 0; i < options_.vcpus; ++i) Leave(i);
    EXPECT_EQ(Check(), absl::OkStatus());
  }

  const LoggingGuestOptions& options() const { return options_; }

  // Is called on a vCPU that was kicked, before it leaves the guest; in stepped guests only.
  std::function<void(int)> before_leaving;

  // Backs `size` bytes at `gpa` by host pages of 2^order frames, from the same offset in host
  // memory on (wrapped at `kMemory`).
  void AddSlot(uint32_t slot, Gpa gpa, ByteCount size, int order = 0, uint32_t flags = 0) {
    const Hva hva = kRam + gpa.raw();
    ASSERT_EQ(memory().Map(hva, size, {.order = order}), absl::OkStatus());
    slots_[slot] = {.slot = slot, .flags = flags, .gpa = gpa, .size = size, .hva = hva};
    ASSERT_EQ(vm().SetMemoryRegion(slots_[slot]), absl::OkStatus());
  }
  void SetLogging(uint32_t slot, bool on) {
    slots_[slot].flags = on ? kSlotLogDirtyPages : 0;
    ASSERT_EQ(vm().SetMemoryRegion(slots_[slot]), absl::OkStatus());
    oracle().Settle();
  }
  // Switches logging on and copies the whole slot, as the first round of a migration does.
  void StartMigration(uint32_t slot) {
    SetLogging(slot, true);
    for (uint64_t i = 0; i < PagesOf(slot); ++i) CopyPage(slot, i);
  }
  uint64_t PagesOf(uint32_t slot) { return slots_[slot].size >> kPageShift; }

  // Accesses the word at `gpa` as vCPU `i`, answering what exits it takes. Returns how many.
  int Read(int i, Gpa gpa) { return Access(i, gpa, sim::AccessKind::kLoad); }
  int Write(int i, Gpa gpa) { return Access(i, gpa, sim::AccessKind::kStore); }

  // Returns the pages that a take of the log shows, and copies each.
  std::set<uint64_t> Take(uint32_t slot) {
    const std::set<uint64_t> pages = TakenPages(vm(), slot);
    for (const uint64_t page : pages) CopyPage(slot, page);
    oracle().Settle();
    return pages;
  }

  // Returns the pages of `slot` whose copy is not what the guest wrote last.
  std::vector<uint64_t> Differences(uint32_t slot) {
    std::vector<uint64_t> pages;
    for (uint64_t i = 0; i < PagesOf(slot); ++i) {
      const auto copy = copies_.find({slot, i});
      if ((copy == copies_.end() ? 0 : copy->second) != Content(slot, i)) pages.push_back(i);
    }
    return pages;
  }

  // Ends the guest entry of vCPU `i`, if it is in the guest, as an exit would.
  void Leave(int i) {
    std::optional<GuestEntry>& entry = entries_[static_cast<size_t>(i)];
    if (!entry) return;
    EXPECT_EQ(DrainPml(i), absl::OkStatus());
    entry.reset();
  }

  void InvalidateHost(uint32_t slot, uint64_t first_page, uint64_t pages) {
    ASSERT_EQ(
        vm().InvalidateHostRange(slots_[slot].hva + first_page * kPageSize, pages * kPageSize),
        absl::OkStatus());
    oracle().Settle();
  }

 private:
  static SimWorldOptions WorldOptions(const LoggingGuestOptions& options, VmOptions vm) {
    vm.dirty_tracking = options.tracking;
    return {.vm = vm,
            .vcpus = options.vcpus,
            .cpu = {.policy = options.policy},
            .is_watched = options.oracle,
            .oracle = {}};
  }

  int Access(int i, Gpa gpa, sim::AccessKind kind) {
    for (int exits = 0;; ++exits) {
      std::optional<GuestEntry>& entry = entries_[static_cast<size_t>(i)];
      if (!entry) {
        entry.emplace(vcpu(i).EnterGuest());
        if (cpu(i).Enter(entry->eptp()) != sim::Event::kNone) {
          Leave(i);
          continue;
        }
      }
      const sim::AccessResult done = cpu(i).Access(Gva(gpa.raw()), kind, 8);
      if (done.ok()) {
        if (kind == sim::AccessKind::kStore) {
          memory().physical().Store(done.hpa.raw(), NextValue(i));
        }
        return exits;
      }
      const sim::Exit exit = cpu(i).exit();
      Leave(i);
      if (done.event == sim::Event::kEptViolation) {
        const FaultResult result = vcpu(i).HandleEptViolation(exit.gpa, exit.qualification);
        EXPECT_EQ(result.status, absl::OkStatus()) << result.status;
        oracle().Settle();
      }
    }
  }

  // Returns another value for every write.
  uint64_t NextValue(int i) {
    return ++values_[static_cast<size_t>(i)] << 8 | static_cast<uint64_t>(i);
  }
  uint64_t Content(uint32_t slot, uint64_t page) {
    const auto place = memory().AtHva(slots_[slot].hva + page * kPageSize);
    return std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(*place))
        .load(std::memory_order_acquire);
  }
  void CopyPage(uint32_t slot, uint64_t page) { copies_[{slot, page}] = Content(slot, page); }

  const LoggingGuestOptions options_;
  std::vector<std::optional<GuestEntry>> entries_;
  std::array<uint64_t, 8> values_{};
  std::map<uint32_t, MemoryRegion> slots_;
  std::map<std::pair<uint32_t, uint64_t>, uint64_t> copies_;
};

}  // namespace tdp

#endif  // TDP_TESTS_MMU_LOGGING_GUEST_H_
