// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A hypervisor (L1) runs its guest (L2) twice: on EPT02, which the engine makes of L1's tables and
// the slots, and on a second software CPU whose physical memory is a copy of L1's, straight on
// EPT12, with nothing cached. L2 and L1 must see the same on both, down to the last A and D flag.

#ifndef TDP_TESTS_MMU_SHADOW_NESTED_WORLD_H_
#define TDP_TESTS_MMU_SHADOW_NESTED_WORLD_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <vector>

#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/mmu/shadow/nested_fault.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tests/world/sim_world.h"

namespace tdp::shadow_test {

// Says what an access of L2 comes to. Addresses are L1's.
struct Nested {
  enum class What { kMemory, kViolation, kMisconfiguration, kPageFault, kMmio, kOther };
  What what = What::kOther;
  uint64_t value = 0;  // gpa, qualification, or error code
  uint64_t gpa = 0;    // of L2, of a violation or misconfiguration

  friend bool operator==(const Nested&, const Nested&) = default;
  friend void PrintTo(const Nested& nested, std::ostream* out) {
    static constexpr const char* kNames[] = {"memory",     "violation", "misconfiguration",
                                             "page fault", "mmio",      "other"};
    *out << absl::StrFormat("%s 0x%x at 0x%x", kNames[static_cast<int>(nested.what)], nested.value,
                            nested.gpa);
  }
};

// Says that an access comes to L1's memory at `gpa`.
inline Nested Memory(uint64_t gpa) { return {Nested::What::kMemory, gpa}; }

class NestedWorld : public SimWorld {
 public:
  static constexpr ByteCount kRamBytes = MiB(16);
  // At this address `AddHighAlias` shows the same memory once more.
  static constexpr uint64_t kHighAlias = uint64_t{1} << 40;

  explicit NestedWorld(int levels = 4, bool accessed_dirty = true, int host_order = 0,
                       bool forgets_invept = false, uint32_t dirty_ring = 0)
      : SimWorld(
            {.vm = Options(dirty_ring), .vcpus = 0, .memory = {.size = GiB(1), .shuffled = true}}),
        forgets_invept_(forgets_invept),
        copy_(kRamBytes + kPageSize),
        reference_(sim::PhysicalMemory(CopyBase(), kRamBytes), ReferenceConfig()) {
    if (dirty_ring != 0) TDP_CHECK(vm().EnableDirtyRing(dirty_ring).ok());
    const uint32_t flags = dirty_ring != 0 ? kSlotLogDirtyPages : 0;
    TDP_CHECK(SetRam(kRamBytes, host_order, flags).ok());
    TDP_CHECK(
        vm().SetMemoryRegion({.address_space = 1, .flags = flags, .size = kRamBytes, .hva = kRam})
            .ok());
    AddVcpu();
    context_ = NestedOn(backend(), Eptp::Make(Hpa(kRoot), levels, accessed_dirty));
    SetRegisters(sim::Registers());
  }

  NestedVcpu& nested() { return *vcpu().nested(); }
  const NestedContext& context() const { return context_; }
  uint64_t faults() const { return faults_; }
  int linear_invalidations() { return backend().linear_invalidations; }

  // Sets the registers of L2 on both CPUs.
  void SetRegisters(const sim::Registers& registers) {
    cpu().SetRegisters(registers);
    reference_.SetRegisters(registers);
  }

  // --- L1 ---

  void Write(uint64_t gpa, uint64_t value) {
    Poke(Gpa(gpa), value);
    std::memcpy(CopyBase() + gpa, &value, sizeof(value));
  }
  uint64_t Read(uint64_t gpa) { return Peek(Gpa(gpa)); }
  // Returns the place of the entry of `level` on the way to `l2_gpa`, and makes the tables above
  // it.
  uint64_t EntryAt(uint64_t l2_gpa, int level) {
    uint64_t table = kRoot;
    for (int at_level = context_.eptp.levels();; --at_level) {
      const uint64_t at = table + (l2_gpa >> (12 + 9 * (at_level - 1)) & 511) * 8;
      if (at_level == level) return at;
      if (Read(at) == 0) Write(at, NewFrame() | ept::kRightsMask);
      table = Read(at) & ept::kAddressMask;
    }
  }
  // Maps the page at `l2_gpa` to L1's `gpa`.
  void Map(uint64_t l2_gpa, uint64_t gpa, int level = 1, uint64_t bits = ept::kRightsMask) {
    const uint64_t large = level > 1 ? ept::kLargePage : 0;
    Write(EntryAt(l2_gpa, level), gpa | bits | kWriteBack | large);
  }
  void AddHighAlias() {
    const MemoryRegion region = {.slot = 1, .gpa = Gpa(kHighAlias), .size = kRamBytes, .hva = kRam};
    TDP_CHECK(vm().SetMemoryRegion(region).ok());
  }
  void UseAddressSpace(AddressSpaceId space) {
    TDP_CHECK(nested().Leave().ok());
    TDP_CHECK(vcpu().SetAddressSpace(space).ok());
  }
  // Enters L2 by another EPTP, from here on.
  void Enter(Eptp eptp) {
    context_.eptp = eptp;
    TDP_CHECK(nested().Enter(context_).ok());
  }
  uint64_t NewFrame() {
    const uint64_t frame = next_frame_;
    next_frame_ += kPageSize;
    return frame;
  }
  void Invept() {
    if (forgets_invept_) return;
    const auto done = nested().Invept(1, context_.eptp, context_.rules);
    TDP_CHECK(done.ok() && *done);
    oracle().SettleAll();
  }

  // --- L2 ---

  Nested Access(uint64_t gva, sim::AccessKind kind, bool user = false) {
    if (!nested().is_entered()) TDP_CHECK(nested().Enter(context_).ok());
    Nested seen;
    const auto attempt = [&] {
      const sim::AccessResult result = cpu().Access(Request(gva, kind, user));
      if (result.ok()) seen = {Nested::What::kMemory, GpaOf(result.hpa)};
      return result.event;
    };
    const auto answer = [&](const sim::Exit& exit) {
      if (exit.event == sim::Event::kPageFault) seen = {Nested::What::kPageFault, exit.error_code};
      if (exit.event != sim::Event::kEptViolation) return false;
      ++faults_;
      const NestedFaultResult fault = nested().HandleViolation(exit.gpa, exit.qualification);
      switch (fault.outcome) {
        case NestedOutcome::kFixed:
        case NestedOutcome::kSpurious:
        case NestedOutcome::kRetry:
          return true;
        case NestedOutcome::kViolation:
          seen = {Nested::What::kViolation, fault.qualification.raw(), exit.gpa.raw()};
          break;
        case NestedOutcome::kMisconfiguration:
          seen = {Nested::What::kMisconfiguration, 0, exit.gpa.raw()};
          break;
        case NestedOutcome::kMmio:
          seen = {Nested::What::kMmio, fault.gpa.raw()};
          break;
        default:
          break;
      }
      return false;
    };
    Run(0, attempt, answer);
    return seen;
  }

  // Makes the access straight on EPT12.
  Nested Reference(uint64_t gva, sim::AccessKind kind, bool user = false) {
    reference_.ClearCaches();
    TDP_CHECK(reference_.Enter(context_.eptp) == sim::Event::kNone);
    const sim::AccessResult result = reference_.Access(Request(gva, kind, user));
    const sim::Exit& exit = reference_.exit();
    switch (result.event) {
      case sim::Event::kNone:
        return {result.hpa.raw() < kRamBytes ? Nested::What::kMemory : Nested::What::kMmio,
                result.hpa.raw()};
      case sim::Event::kEptViolation:
        return {Nested::What::kViolation, exit.qualification.raw(), exit.gpa.raw()};
      case sim::Event::kEptMisconfiguration:
        return {Nested::What::kMisconfiguration, 0, exit.gpa.raw()};
      case sim::Event::kPageFault:
        return {Nested::What::kPageFault, exit.error_code};
      default:
        return {};
    }
  }

  // Returns the first word of [begin, end) in which L1's memory differs from the copy; 0 if none
  // does.
  uint64_t FirstDifference(uint64_t begin, uint64_t end) {
    for (uint64_t frame = begin; frame < end; frame += kPageSize) {
      const std::byte* page = *memory().AtHva(kRam + frame);
      if (std::memcmp(page, CopyBase() + frame, kPageSize) == 0) continue;
      for (uint64_t at = frame;; at += 8) {
        if (std::memcmp(page + (at - frame), CopyBase() + at, 8) != 0) return at;
      }
    }
    return 0;
  }
  // Looks for the difference in EPT12.
  uint64_t FirstDifference() { return FirstDifference(kRoot, next_frame_); }
  // Returns the word at `gpa` in the copy.
  uint64_t ReadCopy(uint64_t gpa) {
    uint64_t value = 0;
    std::memcpy(&value, CopyBase() + gpa, sizeof(value));
    return value;
  }

  static constexpr uint64_t kRoot = 0x1000;
  static constexpr uint64_t kWriteBack = uint64_t{6} << ept::kMemoryTypeShift;

 private:
  static VmOptions Options(uint32_t dirty_ring) {
    VmOptions options{.address_spaces = 2, .nested = true};
    if (dirty_ring != 0) options.dirty_tracking = DirtyTracking::kWriteProtection;
    return options;
  }
  static sim::CpuConfig ReferenceConfig() {
    sim::CpuConfig config;
    config.caches = *sim::CachePreset("none");
    return config;
  }
  std::byte* CopyBase() {
    const auto base = reinterpret_cast<uintptr_t>(copy_.data());
    return copy_.data() + ((kPageSize - base % kPageSize) & kPageOffsetMask);
  }

  static sim::AccessRequest Request(uint64_t gva, sim::AccessKind kind, bool user) {
    sim::AccessRequest request;
    request.gva = gva;
    request.kind = kind;
    request.accessor = user ? sim::Accessor::kUser : sim::Accessor::kSupervisor;
    return request;
  }
  // Returns the address in L1's memory that lies at `hpa`; all ones if none does.
  uint64_t GpaOf(Hpa hpa) {
    for (uint64_t gpa = 0; gpa < kRamBytes; gpa += kPageSize) {
      const auto page = memory().Resolve(kRam + gpa, tdp::Access::Read());
      if (page->hfn == Hfn::Of(hpa)) return gpa | hpa.page_offset();
    }
    return ~uint64_t{0};
  }

  const bool forgets_invept_;
  std::vector<std::byte> copy_;
  sim::Cpu reference_;
  NestedContext context_;
  uint64_t next_frame_ = 0x2000;
  uint64_t faults_ = 0;
};

// This L2 has paging of its own; its page at `kLinear` is in L1's frame `kFirst`, and after `Remap`
// in `kSecond`.
class PagedL2 {
 public:
  static constexpr uint64_t kLinear = 0x7f0000000000;
  static constexpr uint64_t kFirst = 0x900000;
  static constexpr uint64_t kSecond = 0x901000;

  PagedL2() {
    constexpr uint64_t kTable = 0x67;
    for (uint64_t page = 0x10000; page < 0x14000; page += kPageSize) {
      world_.Map(page, FrameOf(page));
    }
    world_.Map(0x20000, kFirst);
    world_.Map(0x21000, kSecond);
    world_.Write(FrameOf(0x10000) + (kLinear >> 39 & 511) * 8, 0x11000 | kTable);
    world_.Write(FrameOf(0x11000), 0x12000 | kTable);
    world_.Write(FrameOf(0x12000), 0x13000 | kTable);
    world_.Write(FrameOf(0x13000), 0x20000 | kTable);
    sim::Registers registers;
    registers.cr0 |= sim::kCr0Pg | sim::kCr0Wp;
    registers.cr3 = 0x10000;
    registers.cr4 = sim::kCr4Pae;
    registers.efer = sim::kEferLme | sim::kEferLma;
    world_.SetRegisters(registers);
  }

  NestedWorld& world() { return world_; }
  Nested Load() { return world_.Access(kLinear, sim::AccessKind::kLoad, true); }
  // Changes the mapping, of which L1 tells nobody.
  void Remap() { world_.Write(FrameOf(0x13000), 0x21000 | 0x67); }

 private:
  static uint64_t FrameOf(uint64_t page) { return 0x700000 + page; }

  NestedWorld world_;
};

}  // namespace tdp::shadow_test

#endif  // TDP_TESTS_MMU_SHADOW_NESTED_WORLD_H_
