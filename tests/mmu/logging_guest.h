// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest on the software CPU whose slots log dirty pages, and a copy of its memory kept up as live
// migration would: each page that a take of the log shows is copied. A write that no take shows is
// a difference in the end.

#ifndef TDP_TESTS_MMU_LOGGING_GUEST_H_
#define TDP_TESTS_MMU_LOGGING_GUEST_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/backends/sim/sim_backend.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/vm.h"
#include "tests/world/sim_backends.h"

namespace tdp {

// Tells the flush oracle of every store to an entry.
class OracleHook : public EntryStoreHook {
 public:
  OracleHook(sim::FlushOracle& oracle, uintptr_t direct_map_offset)
      : oracle_(oracle), offset_(direct_map_offset), before_(SetEntryStoreHook(this)) {}
  ~OracleHook() override { SetEntryStoreHook(before_); }
  void OnStore(const uint64_t* where, EptEntry before, EptEntry after) override {
    oracle_.OnStore(Hpa(reinterpret_cast<uintptr_t>(where) - offset_), before.raw(), after.raw());
  }

 private:
  sim::FlushOracle& oracle_;
  const uintptr_t offset_;
  EntryStoreHook* const before_;
};

struct LoggingGuestOptions {
  DirtyTracking tracking = DirtyTracking::kDirtyBits;
  int vcpus = 2;
  bool stepped = true;  // one thread runs all vCPUs; else each has its own
  bool oracle = true;
  sim::CachePolicy policy = sim::CachePolicy::kRealistic;
};

class LoggingGuest {
 public:
  static constexpr Hva kRam{0x7f0000000000};
  static constexpr ByteCount kMemory = MiB(256);

  explicit LoggingGuest(const LoggingGuestOptions& options = {}, VmOptions vm_options = {})
      : options_(options), memory_({.size = GiB(1)}), backend_(memory_, SimOptions()) {
    if (options.oracle) hook_.emplace(oracle_, memory_.direct_map_offset());
    vm_options.dirty_tracking = options.tracking;
    vm_ = *Vm::Create(backend_, vm_options);
    for (int i = 0; i < options.vcpus; ++i) {
      vcpus_.push_back(*vm_->CreateVcpu());
      entries_.emplace_back();
      if (options.tracking == DirtyTracking::kPml) EnablePml(i);
    }
    if (options.stepped) {
      backend_.leave = [this](VcpuId id) {
        if (before_leaving) before_leaving(static_cast<int>(id));
        Leave(static_cast<int>(id));
      };
    }
  }
  ~LoggingGuest() {
    for (int i = 0; i < options_.vcpus; ++i) Leave(i);
    EXPECT_EQ(vm_->CheckInvariants(), absl::OkStatus());
    for (const sim::StaleUse& use : oracle_.reports()) ADD_FAILURE() << use.DebugString();
  }

  Vm& vm() { return *vm_; }
  Vcpu& vcpu(int i) { return *vcpus_[static_cast<size_t>(i)]; }
  sim::Cpu& cpu(int i) { return backend_.cpu(static_cast<VcpuId>(i)); }
  HookedBackend& backend() { return backend_; }
  sim::HostMemory& memory() { return memory_; }
  const LoggingGuestOptions& options() const { return options_; }

  // Called on a vCPU that was kicked, before it leaves the guest. Stepped guests only.
  std::function<void(int)> before_leaving;

  // Backs `size` bytes at `gpa` by host pages of 2^order frames, from the same offset in host
  // memory on (wrapped at `kMemory`).
  void AddSlot(uint32_t slot, Gpa gpa, ByteCount size, int order = 0, uint32_t flags = 0) {
    const Hva hva = kRam + gpa.raw();
    ASSERT_EQ(memory_.Map(hva, size, {.order = order}), absl::OkStatus());
    slots_[slot] = {.slot = slot, .flags = flags, .gpa = gpa, .size = size, .hva = hva};
    ASSERT_EQ(vm_->SetMemoryRegion(slots_[slot]), absl::OkStatus());
  }
  void SetLogging(uint32_t slot, bool on) {
    slots_[slot].flags = on ? kSlotLogDirtyPages : 0;
    ASSERT_EQ(vm_->SetMemoryRegion(slots_[slot]), absl::OkStatus());
    oracle_.Settle();
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

  // The pages that a take of the log shows, each copied.
  std::set<uint64_t> Take(uint32_t slot) {
    std::set<uint64_t> pages;
    const absl::Status status = vm_->TakeDirtyLog(slot, [&](uint64_t base, uint64_t mask) {
      for (uint64_t bit = 0; bit < 64; ++bit) {
        if ((mask >> bit & 1) == 0) continue;
        pages.insert(base + bit);
        CopyPage(slot, base + bit);
      }
    });
    EXPECT_EQ(status, absl::OkStatus());
    oracle_.Settle();
    return pages;
  }

  // Pages of `slot` whose copy is not what the guest wrote last.
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
    DrainPml(i);
    entry.reset();
  }

  void Settle(PendingFlush flush) {
    flush.Settle();
    oracle_.Settle();
  }
  void InvalidateHost(uint32_t slot, uint64_t first_page, uint64_t pages) {
    ASSERT_EQ(
        vm_->InvalidateHostRange(slots_[slot].hva + first_page * kPageSize, pages * kPageSize),
        absl::OkStatus());
    oracle_.Settle();
  }

 private:
  sim::SimBackendOptions SimOptions() {
    sim::SimBackendOptions sim;
    sim.cpus = options_.vcpus;
    sim.cpu.policy = options_.policy;
    if (options_.oracle) sim.oracle = &oracle_;
    return sim;
  }

  // The logs lie in host memory that no slot uses.
  Hpa PmlAddress(int i) const { return pml_[static_cast<size_t>(i)]; }
  void EnablePml(int i) {
    const Hva hva = kRam + TiB(1) + static_cast<uint64_t>(i) * kPageSize;
    EXPECT_EQ(memory_.Map(hva, kPageSize), absl::OkStatus());
    pml_.push_back(memory_.Resolve(hva, Access::Write())->hfn.address());
    sim::Controls controls = cpu(i).controls();
    controls.pml = true;
    controls.pml_address = PmlAddress(i);
    EXPECT_EQ(cpu(i).SetControls(controls), absl::OkStatus());
  }

  // What an exit handler does: entries above the index, newest first.
  void DrainPml(int i) {
    if (options_.tracking != DirtyTracking::kPml) return;
    std::vector<Gpa> logged;
    for (int at = 511; at > static_cast<int16_t>(cpu(i).pml_index()); --at) {
      logged.push_back(Gpa(memory_.physical().Load(PmlAddress(i).raw() + uint64_t{8} * at)));
    }
    cpu(i).set_pml_index(511);
    EXPECT_EQ(vcpu(i).LogPml(logged), absl::OkStatus());
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
          memory_.physical().Store(done.hpa.raw(), NextValue(i));
        }
        return exits;
      }
      const sim::Exit exit = cpu(i).exit();
      Leave(i);
      if (done.event == sim::Event::kEptViolation) {
        const FaultResult result = vcpu(i).HandleEptViolation(exit.gpa, exit.qualification);
        EXPECT_EQ(result.status, absl::OkStatus()) << result.status;
        oracle_.Settle();
      }
    }
  }

  // Different for every write.
  uint64_t NextValue(int i) {
    return ++values_[static_cast<size_t>(i)] << 8 | static_cast<uint64_t>(i);
  }
  uint64_t Content(uint32_t slot, uint64_t page) {
    const auto place = memory_.AtHva(slots_[slot].hva + page * kPageSize);
    return std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(*place))
        .load(std::memory_order_acquire);
  }
  void CopyPage(uint32_t slot, uint64_t page) { copies_[{slot, page}] = Content(slot, page); }

  const LoggingGuestOptions options_;
  sim::FlushOracle oracle_;
  sim::HostMemory memory_;
  HookedBackend backend_;
  std::optional<OracleHook> hook_;
  std::unique_ptr<Vm> vm_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::vector<std::optional<GuestEntry>> entries_;
  std::vector<Hpa> pml_;
  std::array<uint64_t, 8> values_{};
  std::map<uint32_t, MemoryRegion> slots_;
  std::map<std::pair<uint32_t, uint64_t>, uint64_t> copies_;
};

}  // namespace tdp

#endif  // TDP_TESTS_MMU_LOGGING_GUEST_H_
