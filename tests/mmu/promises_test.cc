// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// An operation promises something for "when it returns", beside another one that has taken the
// mapping away and has not settled its flush: the tables show nothing any more, and a CPU still has
// it. Each debt is tried with each promise in each kind of tables.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/shadow/nested_fault.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_world.h"

namespace tdp {
namespace {

constexpr ByteCount kSize = MiB(4);
constexpr Gpa kPage{0x3000};
constexpr PageCount kOne{1};
constexpr auto kWrite = ExitQualification::Make(Access::Write(), Access::None(), true, true);

enum class Kind { kDirect, kDirectWithoutAccessedBits, kReverseMapped, kShadow, kNested };

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<std::byte[], FreeMemory>;

Memory NewMemory() {
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(MiB(2), kSize));
  std::fill_n(memory, kSize, std::byte{0});
  return Memory(memory);
}

struct WorldOptions {
  bool logs = false;
  bool private_memory = false;
  bool exceptions = false;
  bool in_view = false;
  bool has_neighbour = false;  // the page behind it is mapped, too
};

// This guest's vCPU 0 is in the guest with the page in its TLB, and leaves when it is kicked.
class World : private HostWorld {
 public:
  World(Kind kind, const WorldOptions& options) : kind_(kind) {
    host_.offered.ve = true;
    VmOptions vm;
    vm.paging = kind == Kind::kShadow ? Paging::kShadow : Paging::kEpt;
    vm.nested = kind == Kind::kNested;
    vm.reverse_map = kind == Kind::kReverseMapped;
    if (kind == Kind::kDirectWithoutAccessedBits) vm.accessed_dirty = Use::kNever;
    vm.private_memory = options.private_memory;
    if (options.exceptions) vm.virtualization_exceptions = Use::kRequire;
    Start(vm, /*with_vcpu=*/false);
    region_ = {.flags = options.logs ? kSlotLogDirtyPages : 0, .size = kSize, .hva = HvaOf(ram_)};
    if (options.private_memory) {
      region_.flags |= kSlotPrivateMemory;
      region_.private_hva = HvaOf(private_ram_);
    }
    EXPECT_EQ(vm_->SetMemoryRegion(region_), absl::OkStatus());
    vcpu_ = *vm_->CreateVcpu();
    if (options.in_view) {
      view = *vm_->CreateView();
      EXPECT_EQ(vcpu_->SetView(view), absl::OkStatus());
    }
    host_.on_kick = [this] { entry_.reset(); };
    Touch();
    if (options.has_neighbour) {
      EXPECT_EQ(vcpu_->HandleEptViolation(kPage + kPageSize, kWrite).outcome, FaultOutcome::kFixed);
    }
    entry_ = vcpu_->EnterGuest();
  }
  ~World() {
    entry_.reset();
    EXPECT_EQ(vm_->CheckInvariants(), absl::OkStatus());
    // The vCPU and the VM go before the guest's memory.
    vcpu_.reset();
    vm_.reset();
  }

  Vm& vm() { return *vm_; }
  TestHost& machine() { return host_; }
  const MemoryRegion& region() const { return region_; }
  Hva page() const { return region_.hva + kPage.raw(); }
  // Returns whether vCPU 0 may still use what it had in its TLB.
  bool may_use_page() const { return entry_.has_value(); }
  void Leave() { entry_.reset(); }
  void EnterAgain() { entry_ = vcpu_->EnterGuest(); }

  ViewId view = kBaseView;

 private:
  static Hva HvaOf(const Memory& memory) { return Hva(reinterpret_cast<uintptr_t>(memory.get())); }
  uint64_t& Word(uint64_t gpa) { return *reinterpret_cast<uint64_t*>(ram_.get() + gpa); }

  void Touch() {
    switch (kind_) {
      case Kind::kShadow: {
        const auto result = vcpu_->shadow()->HandlePageFault(Gva(kPage.raw()), guest::kFaultWrite);
        EXPECT_EQ(result.outcome, PagingOutcome::kFixed);
        return;
      }
      case Kind::kNested: {
        // The hypervisor in the guest maps the page for its guest, from tables at 1 MiB.
        constexpr uint64_t kRoot = MiB(1);
        NestedContext context;
        context.eptp = Eptp::Make(Hpa(kRoot), 4, true);
        context.rules.capabilities = host_.capabilities().ept;
        context.rules.physical_address_bits = host_.capabilities().physical_address_bits;
        for (uint64_t level = 0; level < 3; ++level) {
          const uint64_t table = kRoot + level * kPageSize;
          Word(table) = (table + kPageSize) | ept::kRightsMask;
        }
        Word(kRoot + 3 * kPageSize + 3 * 8) =
            EptEntry::Leaf(Hfn(kPage.raw() >> kPageShift), kLevel4K, Access::All(),
                           MemoryType::kWriteBack)
                .raw();
        EXPECT_EQ(vcpu_->nested()->Enter(context), absl::OkStatus());
        EXPECT_EQ(vcpu_->nested()->HandleViolation(kPage, kWrite).outcome, NestedOutcome::kFixed);
        return;
      }
      case Kind::kDirect:
      case Kind::kDirectWithoutAccessedBits:
      case Kind::kReverseMapped:
        EXPECT_EQ(vcpu_->HandleEptViolation(kPage, kWrite).outcome, FaultOutcome::kFixed);
    }
  }

  const Kind kind_;
  Memory ram_ = NewMemory();
  Memory private_ram_ = NewMemory();
  MemoryRegion region_;
  std::optional<GuestEntry> entry_;
};

// --- Debts ---

// Names an operation that takes the page away and holds its flush.
struct Debt {
  std::string name;
  std::function<PendingFlush(World&)> make;
  std::optional<Kind> only = std::nullopt;
};

const std::vector<Debt>& Debts() {
  static const auto* debts = new std::vector<Debt>{
      {"ZapRange", [](World& w) { return *w.vm().ZapRange(Gfn::Of(kPage), kOne); }},
      {"ZapAll", [](World& w) { return *w.vm().ZapAll(); }},
      {"TwoZapsMerged",
       [](World& w) {
         PendingFlush flush = *w.vm().ZapRange(Gfn::Of(kPage), kOne);
         flush.Merge(*w.vm().ZapRange(Gfn(0), PageCount(512)));
         return flush;
       }},
      {"Aging", [](World& w) { return std::move(w.vm().AgeHostRange(w.page(), kPageSize)->flush); },
       Kind::kNested},
      {"AgingWithoutAccessedBits",
       [](World& w) { return std::move(w.vm().AgeHostRange(w.page(), kPageSize)->flush); },
       Kind::kDirectWithoutAccessedBits},
  };
  return *debts;
}

// --- Promises ---

bool HasViews(Kind kind) {
  return kind == Kind::kDirect || kind == Kind::kDirectWithoutAccessedBits;
}

struct Promise {
  std::string name;
  std::function<void(World&)> keep;
  WorldOptions options = {};
  bool (*fits)(Kind) = [](Kind) { return true; };
};

MemoryRegion With(MemoryRegion region, void (*change)(MemoryRegion&)) {
  change(region);
  return region;
}

const std::vector<Promise>& Promises() {
  const auto keeps = [](absl::Status status) { EXPECT_EQ(status, absl::OkStatus()); };
  static const auto* promises = new std::vector<Promise>{
      {"InvalidateHostRange",
       [=](World& w) { keeps(w.vm().InvalidateHostRange(w.page(), kPageSize)); }},
      {"BeginHostInvalidation",
       [=](World& w) {
         keeps(w.vm().BeginHostInvalidation(w.page(), kPageSize));
         w.vm().EndHostInvalidation();  // which waits for nobody
       }},
      {"ASlotIsDeleted",
       [=](World& w) {
         keeps(w.vm().SetMemoryRegion(With(w.region(), [](MemoryRegion& r) { r.size = 0; })));
       }},
      {"ASlotIsMoved",
       [=](World& w) {
         keeps(w.vm().SetMemoryRegion(
             With(w.region(), [](MemoryRegion& r) { r.gpa = Gpa(GiB(1)); })));
       }},
      {"LoggingIsSwitchedOn",
       [=](World& w) {
         keeps(w.vm().SetMemoryRegion(
             With(w.region(), [](MemoryRegion& r) { r.flags |= kSlotLogDirtyPages; })));
       }},
      {"LoggingIsSwitchedOff",
       [=](World& w) {
         keeps(w.vm().SetMemoryRegion(With(w.region(), [](MemoryRegion& r) { r.flags = 0; })));
       },
       {.logs = true}},
      {"SetMemoryAttributes",
       [=](World& w) {
         keeps(w.vm().SetMemoryAttributes(kPage, kPageSize, kMemoryAttributePrivate));
       },
       {.private_memory = true},
       HasViews},
      {"SetMemoryTypes",
       [=](World& w) { keeps(w.vm().SetMemoryTypes({.non_coherent_dma = true, .mtrrs = {}})); },
       {},
       [](Kind kind) { return kind != Kind::kShadow && kind != Kind::kNested; }},
      {"SetViewRights",
       [=](World& w) { keeps(w.vm().SetViewRights(w.view, Gfn::Of(kPage), kOne, Access::Read())); },
       {.in_view = true},
       HasViews},
      {"SetRaisesVe",
       [=](World& w) { keeps(w.vm().SetRaisesVe(w.view, Gfn::Of(kPage), kOne, true)); },
       {.exceptions = true, .in_view = true},
       [](Kind kind) { return kind == Kind::kDirect; }},
      {"ASettledZapRange", [=](World& w) { w.vm().ZapRange(Gfn::Of(kPage), kOne)->Settle(); }},
      {"ASettledZapAll", [=](World& w) { w.vm().ZapAll()->Settle(); }},
  };
  return *promises;
}

// --- One debt and one promise ---

constexpr std::array kKinds = {Kind::kDirect, Kind::kDirectWithoutAccessedBits,
                               Kind::kReverseMapped, Kind::kShadow, Kind::kNested};
constexpr std::array<const char*, 5> kKindNames = {"Direct", "DirectWithoutAccessedBits",
                                                   "ReverseMapped", "Shadow", "Nested"};

using PromiseCase = std::tuple<Kind, size_t>;

std::vector<PromiseCase> Cases() {
  std::vector<PromiseCase> cases;
  for (const Kind kind : kKinds) {
    for (size_t i = 0; i < Promises().size(); ++i) {
      if (Promises()[i].fits(kind)) cases.emplace_back(kind, i);
    }
  }
  return cases;
}

std::string NameOf(const testing::TestParamInfo<PromiseCase>& info) {
  const auto& [kind, promise] = info.param;
  return std::string(kKindNames[static_cast<size_t>(kind)]) + Promises()[promise].name;
}

class Promised : public testing::TestWithParam<PromiseCase> {
 protected:
  Kind kind() const { return std::get<0>(GetParam()); }
  const Promise& promise() const { return Promises()[std::get<1>(GetParam())]; }
};

TEST_P(Promised, IsKeptBesideAFlushThatAnotherHolds) {
  for (const Debt& debt : Debts()) {
    if (debt.only.has_value() && *debt.only != kind()) continue;
    SCOPED_TRACE(debt.name);
    World world(kind(), promise().options);
    PendingFlush held = debt.make(world);
    ASSERT_TRUE(held.is_owed());
    ASSERT_TRUE(world.may_use_page());
    promise().keep(world);
    EXPECT_FALSE(world.may_use_page());
    held.Settle();
  }
}

TEST_P(Promised, WaitsForNobodyIfNothingIsOwed) {
  if (kind() == Kind::kShadow || kind() == Kind::kNested) {
    GTEST_SKIP() << "the pages of the shadow are there still and may have to be flushed";
  }
  World world(kind(), promise().options);
  world.vm().ZapRange(Gfn::Of(kPage), kOne)->Settle();
  world.EnterAgain();
  promise().keep(world);
  EXPECT_TRUE(world.may_use_page()) << "it was kicked";
}

// The first kick is for another thread's operation, which goes on waiting; the vCPU leaves at the
// next.
TEST_P(Promised, IsKeptBesideAnotherThreadsInvalidation) {
  World world(kind(), promise().options);
  std::promise<void> waits;
  world.machine().on_kick = [&] {
    world.machine().on_kick = [&world] { world.Leave(); };
    waits.set_value();
  };
  std::thread invalidation([&world, page = world.page()] {
    EXPECT_EQ(world.vm().InvalidateHostRange(page, kPageSize), absl::OkStatus());
  });
  waits.get_future().wait();
  promise().keep(world);
  EXPECT_FALSE(world.may_use_page());
  world.Leave();
  invalidation.join();
}

TEST_P(Promised, IsKeptBesideAReclaimOfColdTables) {
  if (kind() == Kind::kNested) GTEST_SKIP() << "what L2 runs on is not among the cold tables";
  World world(kind(), promise().options);
  std::promise<void> waits;
  world.machine().on_kick = [&] {
    world.machine().on_kick = [&world] { world.Leave(); };
    waits.set_value();
  };
  std::thread reclaim([&world] { EXPECT_EQ(world.vm().SetTableQuota(1), absl::OkStatus()); });
  waits.get_future().wait();
  EXPECT_EQ(world.vm().SetTableQuota(~size_t{0} >> 1), absl::OkStatus());
  ASSERT_TRUE(world.may_use_page());
  promise().keep(world);
  EXPECT_FALSE(world.may_use_page());
  world.Leave();
  reclaim.join();
}

// The host may answer with the old page until the call has returned.
TEST(InvalidateHostRange, LetsNoFaultMapAPageThatACpuStillHas) {
  World world(Kind::kDirect, {});
  const auto other = *world.vm().CreateVcpu();
  FaultOutcome meanwhile = FaultOutcome::kError;
  world.machine().on_kick = [&] {
    meanwhile = other->HandleEptViolation(kPage, kWrite).outcome;
    world.Leave();
  };
  EXPECT_EQ(world.vm().InvalidateHostRange(world.page(), kPageSize), absl::OkStatus());
  EXPECT_EQ(meanwhile, FaultOutcome::kRetry);
  EXPECT_FALSE(world.vm().Translate(kPage).ok());
  EXPECT_EQ(other->HandleEptViolation(kPage, kWrite).outcome, FaultOutcome::kFixed);
}

class ZapOfOnePage : public testing::TestWithParam<Kind> {};

// Nobody owes anything before the zap, so the flush is all its own.
TEST_P(ZapOfOnePage, OwesAFlushWhateverStandsBesideIt) {
  for (const bool in_view : {false, true}) {
    for (const bool has_neighbour : {false, true}) {
      if (in_view && !HasViews(GetParam())) continue;
      SCOPED_TRACE(has_neighbour ? "with a neighbour" : "by itself");
      World world(GetParam(), {.in_view = in_view, .has_neighbour = has_neighbour});
      PendingFlush flush = *world.vm().ZapRange(Gfn::Of(kPage), kOne);
      EXPECT_TRUE(flush.is_owed());
      flush.Settle();
      EXPECT_FALSE(world.may_use_page()) << (in_view ? "of a view" : "of the base");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Each, ZapOfOnePage,
                         testing::Values(Kind::kDirect, Kind::kDirectWithoutAccessedBits,
                                         Kind::kReverseMapped));

INSTANTIATE_TEST_SUITE_P(Each, Promised, testing::ValuesIn(Cases()), NameOf);

}  // namespace
}  // namespace tdp
