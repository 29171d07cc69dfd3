// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Plays a host that answers in every way that `Backend` allows, each time in another: pieces that
// are larger or smaller, pages that may be written or not yet, ranges in any runs, errors in their
// middle, no tables at all. Random calls of a `Vm` follow each other, and a CPU that uses what is
// mapped.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/change.h"
#include "tests/world/host_world.h"

namespace tdp {
namespace {

constexpr Hva kRam{TiB(1)};
constexpr uint64_t kPages = 2048;
constexpr uint64_t kBlock = 512;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t Below(uint64_t n) { return engine_() % n; }
  bool Chance(uint64_t in) { return Below(in) == 0; }

 private:
  std::mt19937_64 engine_;
};

// Knows where memory is. It comes in blocks of 2 MiB that are one piece or 512; a page that nobody
// has written is shared, and so read-only to whoever reads it, or not, as the host likes.
class OddMemory {
 public:
  explicit OddMemory(Random& random)
      : random_(random), frames_(kPages), types_(kPages), shared_(kPages) {
    for (uint64_t b = 0; b < kPages / kBlock; ++b) Place(b);
  }
  // Gives the memory of a block new places.
  void Place(uint64_t block) {
    huge_[block] = random_.Chance(2);
    const auto type = random_.Chance(4) ? MemoryType::kUncacheable : MemoryType::kWriteBack;
    next_ = (next_ + kBlock - 1) & ~(kBlock - 1);
    for (uint64_t i = block * kBlock; i < (block + 1) * kBlock; ++i) {
      if (!huge_[block] && random_.Chance(8)) ++next_;
      frames_[i] = Hfn(next_++);
      types_[i] = huge_[block] || !random_.Chance(16) ? type : MemoryType::kWriteThrough;
      shared_[i] = !huge_[block] && random_.Chance(2);
    }
  }
  // Moves some pages of a block, which is none of one piece from then on; or all of it.
  void Move(uint64_t page, uint64_t count) {
    if (count == kBlock) return Place(page / kBlock);
    huge_[page / kBlock] = false;
    for (uint64_t i = page; i < page + count; ++i) frames_[i] = Hfn(next_++);
  }

  Hfn FrameAt(uint64_t page) const { return frames_[page]; }
  MemoryType TypeAt(uint64_t page) const { return types_[page]; }
  bool IsHuge(uint64_t page) const { return huge_[page / kBlock]; }
  bool IsShared(uint64_t page) const { return shared_[page]; }
  void Unshare(uint64_t page) { shared_[page] = false; }

 private:
  Random& random_;
  std::vector<Hfn> frames_;
  std::vector<MemoryType> types_;
  std::vector<bool> shared_;
  bool huge_[kPages / kBlock] = {};
  uint64_t next_ = 1 << 20;
};

struct Kind {
  const char* name;
  VmOptions options;
  bool with_views = true;
  bool resolves_pages = false;
};

class OddHostRun : public HostWorld {
 public:
  OddHostRun(uint64_t seed, const Kind& kind)
      : random_(seed), memory_(random_), with_views_(kind.with_views) {
    host_.offered.pml = true;
    host_.offered.mbec = true;
    host_.offered.resolves_pages = kind.resolves_pages;
    host_.on_resolve = [this] {
      const bool is_late = chaos_ && random_.Chance(8);
      host_.answer = is_late ? absl::UnavailableError("later") : absl::OkStatus();
    };
    host_.frame_of = [this](Hva hva) { return Answer((hva - kRam) >> kPageShift); };
    Start(kind.options);
    SetSlot(0);
    if (with_views_) view_ = *vm_->CreateView();
  }

  void Step() {
    Random& random = random_;
    chaos_ = random.Chance(3);
    host_.blocks = chaos_ && random.Chance(2) ? 0 : 1 << 20;
    const uint64_t page = random.Below(kPages);
    const uint64_t count =
        random.Chance(2) ? 1 + random.Below(32) : 1 + random.Below(kPages - page);
    const uint64_t bounded = std::min(count, kPages - page);
    const Gfn gfn(page);
    const ViewId view = random.Chance(2) ? kBaseView : view_;
    const uint64_t op = random.Below(24);
    trace_ = absl::StrCat("op ", op, " page ", page, " count ", bounded, " view ", view);
    switch (op) {
      case 0:
      case 1:
      case 2:
        return Touch(page, Access::Write(), view);
      case 3:
        return Touch(page, Access::Read(), view);
      case 4:
        return Touch(page, Access::Execute(), view);
      case 5: {
        const Access kinds[] = {Access::Read(), Access::Write(), Access::Execute()};
        ASSERT_TRUE(vcpu_->SetView(view).ok());
        const auto done =
            vcpu_->Prefault(gfn.address(), PageCount(bounded).bytes(), kinds[random.Below(3)]);
        last_ = absl::StrCat(done.ok() ? *done : 0, " ", done.status().ToString());
        return;
      }
      case 6: {
        const auto done = vm_->Populate(gfn.address(), PageCount(bounded).bytes(), 0, view);
        last_ = absl::StrCat(done.ok() ? *done : 0, " ", done.status().ToString());
        if (done.ok()) {
          for (uint64_t i = page; i < page + (*done >> kPageShift); ++i) {
            ASSERT_TRUE(vm_->Translate(Gfn(i).address(), 0, view).ok()) << trace_ << " " << i;
          }
        }
        return;
      }
      case 7:
        return Ignore(
            vm_->SplitRange(gfn, PageCount(bounded), Level(1 + static_cast<int>(random.Below(2)))));
      case 8:
      case 9:
        vm_->CollapseRange(Gfn(0), PageCount(kPages)).IgnoreError();
        return;
      case 10:
        return Ignore(vm_->ZapRange(gfn, PageCount(bounded)));
      case 11: {
        const uint64_t in_block = std::min(bounded, kBlock - page % kBlock);
        const Hva start = kRam + (page << kPageShift);
        if (random.Chance(2)) Ignore(vm_->ZapAll());  // no table is in the way of a large leaf
        ASSERT_TRUE(vm_->BeginHostInvalidation(start, PageCount(in_block).bytes()).ok());
        Touch(page, Access::Write(), view, true);
        Touch(page / kBlock * kBlock, Access::Read(), view, true);
        vcpu_->Prefault(Gpa(0), MiB(8)).IgnoreError();
        vm_->Populate(gfn.address(), MiB(8) - gfn.address().raw()).status().IgnoreError();
        vm_->CollapseRange(Gfn(0), PageCount(kPages)).IgnoreError();
        for (uint64_t i = page; i < page + in_block; ++i) {
          ASSERT_FALSE(vm_->Translate(Gfn(i).address()).ok()) << trace_ << ", frame " << i;
        }
        memory_.Move(page, in_block);
        vm_->EndHostInvalidation();
        return;
      }
      case 12: {
        host_.missing.clear();
        if (random.Chance(2)) host_.missing.insert(kRam + (page << kPageShift));
        ASSERT_TRUE(vm_->InvalidateHostRange(kRam, MiB(8)).ok());
        return;
      }
      case 13:
        return SetSlot(logs_ ? 0 : kSlotLogDirtyPages);
      case 14:
      case 15:
        return Take();
      case 16:
        vm_->PushDownDirtyLog(0).IgnoreError();
        return;
      case 17: {
        auto aged = vm_->AgeHostRange(kRam + (page << kPageShift), PageCount(bounded).bytes());
        ASSERT_TRUE(aged.ok());
        aged->flush.Settle();
        return;
      }
      case 18:
        vm_->SetTableQuota(random.Chance(3) ? 12 + random.Below(60) : kQuotaByMemory).IgnoreError();
        return;
      case 19:
        vm_->ReserveTables(random.Below(100)).IgnoreError();
        if (random.Chance(2)) vm_->ReleaseTableMemory();
        return;
      case 20: {
        if (!with_views_) return;
        const Access rights[] = {Access::All(), Access::Read(), Access::Read() | Access::Execute(),
                                 Access::ReadWrite()};
        ASSERT_TRUE(
            vm_->SetViewRights(view_, gfn, PageCount(bounded), rights[random.Below(4)]).ok());
        return;
      }
      case 21: {
        if (!with_views_) return;
        const Change changes[] = {Change::Zap(gfn, PageCount(bounded)),
                                  Change::ViewRights(view_, gfn, PageCount(bounded), Access::All()),
                                  Change::Zap(Gfn(0), PageCount(3))};
        ASSERT_TRUE(vm_->Apply(changes).ok());
        return;
      }
      case 22: {
        if (!with_views_) return;
        shown_first_ = page;
        shown_end_ = random.Chance(2) ? page : page + bounded;
        ASSERT_TRUE(vm_->SetViewFrames(view_, Gfn(0), PageCount(kPages), std::nullopt).ok());
        if (shown_end_ > shown_first_) {
          ASSERT_TRUE(vm_->SetViewFrames(view_, Gfn(shown_first_),
                                         PageCount(shown_end_ - shown_first_),
                                         Hfn(0x2000000 + (page % kBlock)))
                          .ok());
        }
        return;
      }
      default:
        vm_->TestAge(kRam, MiB(8)).IgnoreError();
    }
  }

  void Check(uint64_t step) {
    chaos_ = false;
    host_.blocks = 1 << 20;
    ASSERT_EQ(vm_->CheckInvariants(), absl::OkStatus())
        << "step " << step << ": " << trace_ << " " << last_;
    if (step % 16 != 0) return;
    vm_->SetTableQuota(kQuotaByMemory).IgnoreError();
    Touch(random_.Below(kPages), Access::Write(), kBaseView);
  }

 private:
  // Says in `host_` what is answered besides the frame. A page may be written for whoever asks for
  // that, and perhaps for others.
  Hfn Answer(uint64_t page) {
    const bool is_piece = memory_.IsHuge(page) && host_.missing.empty();
    host_.order = !is_piece ? 0 : random_.Chance(2) ? 9 : static_cast<int>(random_.Below(10));
    if (random_.Chance(2)) memory_.Unshare(page);
    host_.writable = !memory_.IsShared(page);
    host_.memory_type = memory_.TypeAt(page);
    return memory_.FrameAt(page);
  }
  bool Shown(uint64_t page, ViewId view) const {
    return view == view_ && with_views_ && page >= shown_first_ && page < shown_end_;
  }
  static void Ignore(absl::StatusOr<PendingFlush> flush) {
    if (flush.ok()) flush->Settle();
  }
  void SetSlot(uint32_t flags) {
    if (logs_) Take();
    const absl::Status set =
        vm_->SetMemoryRegion({.flags = flags, .gpa = Gpa(0), .size = MiB(8), .hva = kRam});
    ASSERT_TRUE(set.ok()) << set;
    logs_ = flags != 0;
    written_.clear();
  }
  void Take() {
    std::set<uint64_t> taken;
    const absl::Status status = vm_->TakeDirtyLog(0, [&](uint64_t base, uint64_t mask) {
      for (; mask != 0; mask &= mask - 1) {
        taken.insert(base + static_cast<uint64_t>(__builtin_ctzll(mask)));
      }
    });
    ASSERT_EQ(status.ok(), logs_) << status;
    for (const uint64_t page : written_) ASSERT_TRUE(taken.contains(page)) << trace_ << " " << page;
    written_.clear();
  }

  // Plays a CPU that makes an access, until it is made or cannot be.
  void Touch(uint64_t page, Access access, ViewId view, bool is_changing = false) {
    ASSERT_TRUE(vcpu_->SetView(view).ok());
    const Gpa gpa = Gfn(page).address();
    std::string outcomes;
    for (int tries = 0; tries < 40; ++tries) {
      if (Use(page, access, view)) return;
      const auto found = vm_->Translate(gpa, 0, view);
      const Access allowed = found.ok() ? found->access : Access::None();
      const FaultResult result =
          vcpu_->HandleEptViolation(gpa, ExitQualification::Make(access, allowed, true, true));
      absl::StrAppend(&outcomes, FaultOutcomeName(result.outcome), " ", result.status.ToString(),
                      "; ");
      if (result.outcome == FaultOutcome::kViewDenied) {
        ASSERT_TRUE(with_views_ && view == view_) << trace_;
        return;
      }
      if (result.outcome == FaultOutcome::kError &&
          host_.missing.contains(kRam + (page << kPageShift)))
        return;
      if (chaos_) {
        if (result.outcome == FaultOutcome::kBlocked || result.outcome == FaultOutcome::kError) {
          return;
        }
      }
      if (is_changing && result.outcome == FaultOutcome::kRetry) return;
      if (result.outcome == FaultOutcome::kError && absl::IsResourceExhausted(result.status)) {
        vm_->SetTableQuota(kQuotaByMemory).IgnoreError();
        continue;
      }
      ASSERT_TRUE(result.status.ok()) << trace_ << " " << result.status;
    }
    FAIL() << "page " << page << " is never mapped: " << trace_ << ": " << outcomes;
  }

  // Returns whether the CPU can make the access, and sets what it sets.
  bool Use(uint64_t page, Access access, ViewId view) {
    const Gfn gfn(page);
    const Eptp eptp = vm_->eptp(0, view);
    std::vector<uint64_t*> way;
    auto* table = reinterpret_cast<uint64_t*>(eptp.root().raw());
    Access rights = Access::All();
    Level level = eptp.root_level();
    EptEntry entry;
    for (;; level = level.below()) {
      uint64_t* where = table + level.IndexOf(gfn);
      entry = EntryRef(where).Load();
      if (entry.is_mmio() || !entry.is_present()) return false;
      rights = rights & entry.access();
      way.push_back(where);
      if (entry.kind(level) == EntryKind::kLeaf) break;
      table = reinterpret_cast<uint64_t*>(entry.address().raw());
    }
    if (!rights.Covers(access)) return false;
    const Hfn frame = Translation{entry, level, rights}.FrameOf(gfn);
    if (Shown(page, view)) {
      EXPECT_EQ(frame.raw() >> 20, 0x20u) << trace_;
    } else {
      EXPECT_EQ(frame, memory_.FrameAt(page)) << trace_;
      EXPECT_EQ(entry.memory_type(), memory_.TypeAt(page)) << trace_;
    }
    if (eptp.accessed_dirty()) {
      for (uint64_t* where : way) *where |= EptEntry().WithAccessed().raw();
      if (access.can_write()) {
        const bool is_new = !entry.dirty();
        *way.back() |= EptEntry().WithDirty().raw();
        if (is_new && vm_->options().dirty_tracking == DirtyTracking::kPml) {
          const Gpa gpa[] = {gfn.address()};
          EXPECT_TRUE(vcpu_->LogPml(gpa).ok());
        }
      }
    }
    if (access.can_write() && logs_ && !Shown(page, view)) written_.insert(page);
    return true;
  }

  Random random_;
  OddMemory memory_;
  const bool with_views_;
  bool chaos_ = false;
  ViewId view_ = kBaseView;
  bool logs_ = false;
  uint64_t shown_first_ = 0;
  uint64_t shown_end_ = 0;
  std::set<uint64_t> written_;
  std::string trace_;
  std::string last_;
};

class OddHostTest : public testing::TestWithParam<Kind> {};

TEST_P(OddHostTest, WhateverTheHostAnswersTablesAndLogsAreRight) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    OddHostRun run(seed, GetParam());
    for (uint64_t step = 1; step <= 300; ++step) {
      SCOPED_TRACE(absl::StrCat("step ", step));
      run.Step();
      if (HasFailure()) return;
      run.Check(step);
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, OddHostTest,
    testing::Values(Kind{"DirtyBits", {}},
                    Kind{"WriteProtection", {.dirty_tracking = DirtyTracking::kWriteProtection}},
                    Kind{"Pml", {.dirty_tracking = DirtyTracking::kPml}},
                    Kind{"NoBits", {.accessed_dirty = Use::kNever}},
                    Kind{"SmallLeaves", {.max_leaf_level = kLevel4K}},
                    Kind{"Execute4K", {.execute_4k_only = true}},
                    Kind{"ExecuteByMode", {.execute_by_mode = Use::kRequire}},
                    Kind{"ByRequest", {}, true, true}, Kind{"FiveLevels", {.ept_levels = 5}},
                    Kind{"ReverseMap", {.reverse_map = true}, false},
                    Kind{"Nested", {.nested = true}, false}),
    [](const testing::TestParamInfo<Kind>& kind) { return kind.param.name; });

}  // namespace
}  // namespace tdp
