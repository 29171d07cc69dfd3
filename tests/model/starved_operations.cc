// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These operations are tried on a machine that runs out of memory: each call that allocates, in
// each kind of tables where it goes another way.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tdp/memslot/dirty_ring.h"
#include "tdp/mmu/guest/guest_walk.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/vm/change.h"
#include "tests/model/starved_machine.h"
#include "tests/world/sim_world.h"

namespace tdp::model {
namespace {

const VmOptions kWriteProtect = {.dirty_tracking = DirtyTracking::kWriteProtection};
const VmOptions kReverse = {.reverse_map = true};
const VmOptions kShadow = {.paging = Paging::kShadow};
const VmOptions kNested = {.nested = true};

void Fill(StarvedMachine& m) { m.Fill(); }
void FillAndLog(StarvedMachine& m) {
  m.Fill();
  EXPECT_TRUE(m.SetRam(kSlotLogDirtyPages).ok());
}

void Nothing(StarvedMachine&) {}
void HaveRam(StarvedMachine& m) {
  m.host.order = 0;
  EXPECT_TRUE(m.SetRam().ok());
}
void FillViews(StarvedMachine& m) {
  m.has_view = m.vm->CreateView().ok();
  m.Fill();
  EXPECT_EQ(*m.vm->Populate(Gpa(0), MiB(4), 0, 1), MiB(4));
}
void FillPrivate(StarvedMachine& m) {
  EXPECT_TRUE(m.vm->SetMemoryRegion({.flags = kSlotPrivateMemory,
                                     .size = kStarvedSize,
                                     .hva = StarvedMachine::ram(),
                                     .private_hva = StarvedMachine::ram() + GiB(8)})
                  .ok());
  for (uint64_t page = 0; page < kStarvedPages; page += 512) EXPECT_TRUE(m.Fault(page).ok());
}
void FillAndLogInRings(StarvedMachine& m) {
  EXPECT_TRUE(m.vm->EnableDirtyRing(1024).ok());
  m.vcpu = *m.vm->CreateVcpu();
  FillAndLog(m);
}
void FillAndLogAllDirty(StarvedMachine& m) {
  EXPECT_TRUE(m.vm->SetManualDirtyLogProtect(kDirtyLogManualProtect | kDirtyLogInitiallySet).ok());
  FillAndLog(m);
}
absl::Status Batch(StarvedMachine& m) {
  return m.vm->Apply({Change::Region({.slot = 0, .size = 0}),
                      Change::Region({.slot = 0,
                                      .flags = kSlotLogDirtyPages,
                                      .gpa = Gpa(MiB(2)),
                                      .size = MiB(8),
                                      .hva = StarvedMachine::ram()}),
                      Change::ViewRights(1, Gfn(3), PageCount(700), Access::Read()),
                      Change::ViewFrames(1, Gfn(5), PageCount(3), Hfn(GiB(2) >> kPageShift)),
                      Change::Zap(Gfn(5), PageCount(600))});
}
absl::Status BatchOfSlots(StarvedMachine& m) {
  return m.vm->Apply({Change::Region({.slot = 0, .size = 0}),
                      Change::Region({.slot = 0,
                                      .flags = kSlotLogDirtyPages,
                                      .gpa = Gpa(MiB(2)),
                                      .size = MiB(8),
                                      .hva = StarvedMachine::ram()}),
                      Change::Zap(Gfn(5), PageCount(600))});
}
absl::Status Populate(StarvedMachine& m, ViewId view) {
  for (ByteCount done = 0; done < kStarvedSize;) {
    const auto more = m.vm->Populate(Gpa(done), kStarvedSize - done, 0, view);
    if (!more.ok()) return more.status();
    done += *more;
  }
  return absl::OkStatus();
}

// --- Guests with tables of their own

constexpr uint64_t kGuestBits = 0x67;        // present, writable, user, A, D
constexpr uint64_t kEptBits = 0x7 | 6 << 3;  // every right; of a leaf write-back

void HaveGuest(StarvedMachine& m) {
  HaveRam(m);
  m.WriteTables(kGuestBits);
}
absl::Status LoadPaging(StarvedMachine& m) {
  ShadowVcpu& shadow = *m.vcpu->shadow();
  if (shadow.roots().cr3 != 0) return absl::OkStatus();
  return shadow.SetPaging(FourLevelPaging(), kPageSize).status();
}
absl::Status ShadowFault(StarvedMachine& m, uint64_t gva) {
  constexpr uint32_t kUserWrite = 6;
  if (absl::Status loaded = LoadPaging(m); !loaded.ok()) return loaded;
  return m.vcpu->shadow()->HandlePageFault(Gva(gva), kUserWrite).status;
}
void HaveHypervisor(StarvedMachine& m) {
  HaveRam(m);
  m.WriteTables(kEptBits);
}
NestedContext ContextOfL2(StarvedMachine& m) {
  return NestedOn(m.host, Eptp::Make(Hpa(kPageSize), 4, false));
}
absl::Status EnterL2(StarvedMachine& m) { return m.vcpu->nested()->Enter(ContextOfL2(m)); }

}  // namespace

const std::vector<StarvedOperation>& StarvedOperations() {
  static const auto* const operations = new std::vector<StarvedOperation>{
      {"ASlot", {}, [](StarvedMachine&) {}, [](StarvedMachine& m) { return m.SetRam(); }},
      {"ALoggingSlot",
       {},
       [](StarvedMachine&) {},
       [](StarvedMachine& m) { return m.SetRam(kSlotLogDirtyPages); }},
      {"ASlotWithReverseMap", kReverse, [](StarvedMachine&) {},
       [](StarvedMachine& m) { return m.SetRam(); }},
      {"ALoggingSlotWithReverseMap", kReverse, [](StarvedMachine&) {},
       [](StarvedMachine& m) { return m.SetRam(kSlotLogDirtyPages); }},
      {"ManySlots",
       {},
       [](StarvedMachine&) {},
       [](StarvedMachine& m) {
         for (uint32_t slot = 1; slot < 80; ++slot) {
           const absl::Status status = m.SetSlot(slot, 0, Gpa(slot * MiB(64)), kPageSize);
           if (!status.ok()) return status;
         }
         return absl::OkStatus();
       }},
      {"DeletingASlot", {}, Fill, [](StarvedMachine& m) { return m.SetSlot(0, 0, Gpa(0), 0); }},
      {"MovingASlot",
       {},
       Fill,
       [](StarvedMachine& m) { return m.SetSlot(0, 0, Gpa(MiB(8)), kStarvedSize); }},
      {"LoggingOn", {}, Fill, [](StarvedMachine& m) { return m.SetRam(kSlotLogDirtyPages); }},
      {"LoggingOnByProtection", kWriteProtect, Fill,
       [](StarvedMachine& m) { return m.SetRam(kSlotLogDirtyPages); }},
      {"LoggingOff", kWriteProtect, FillAndLog, [](StarvedMachine& m) { return m.SetRam(); }},
      {"AFaultOf2M",
       {},
       [](StarvedMachine& m) { EXPECT_TRUE(m.SetRam().ok()); },
       [](StarvedMachine& m) { return m.Fault(0); }},
      {"AFaultWithReverseMap", kReverse,
       [](StarvedMachine& m) {
         m.host.order = 0;
         EXPECT_TRUE(m.SetRam().ok());
       },
       [](StarvedMachine& m) { return m.Fault(77); }},
      {"AWriteThatIsLogged", kWriteProtect, FillAndLog,
       [](StarvedMachine& m) { return m.Fault(5); }},
      {"TakingTheLog", kWriteProtect,
       [](StarvedMachine& m) {
         FillAndLog(m);
         EXPECT_TRUE(m.Fault(5).ok());
       },
       [](StarvedMachine& m) { return m.Take(); }},
      {"TakingTheLogOfDirtyBits", {}, FillAndLog, [](StarvedMachine& m) { return m.Take(); }},
      {"PushingTheLogDown", kWriteProtect, FillAndLog,
       [](StarvedMachine& m) { return m.vm->PushDownDirtyLog(0); }},
      {"Prefault",
       {},
       [](StarvedMachine& m) { EXPECT_TRUE(m.SetRam().ok()); },
       [](StarvedMachine& m) {
         m.host.order = 0;
         ByteCount done = 0;
         while (done < kStarvedSize) {
           const auto more = m.vcpu->Prefault(Gpa(done), kStarvedSize - done, Access::Write());
           if (!more.ok()) return more.status();
           done += *more;
         }
         return absl::OkStatus();
       }},
      {"ZapOfPartOfALeaf",
       {},
       Fill,
       [](StarvedMachine& m) { return Settled(m.vm->ZapRange(Gfn(100), PageCount(1000))); }},
      {"ZapOfEverything", {}, Fill, [](StarvedMachine& m) { return Settled(m.vm->ZapAll()); }},
      {"TheHostsInvalidation",
       {},
       Fill,
       [](StarvedMachine& m) {
         return m.vm->InvalidateHostRange(StarvedMachine::ram() + 3 * kPageSize, MiB(5));
       }},
      {"Split",
       {},
       Fill,
       [](StarvedMachine& m) {
         return Settled(m.vm->SplitRange(Gfn(0), PageCount(kStarvedPages)));
       }},
      {"Collapse",
       {},
       [](StarvedMachine& m) {
         m.Fill();
         m.vm->SplitRange(Gfn(0), PageCount(kStarvedPages))->Settle();
         m.host.order = 9;
       },
       [](StarvedMachine& m) {
         return m.vm->CollapseRange(Gfn(0), PageCount(kStarvedPages)).status();
       }},
      {"Aging",
       {.accessed_dirty = Use::kNever},
       Fill,
       [](StarvedMachine& m) {
         auto aged = m.vm->AgeHostRange(StarvedMachine::ram(), kStarvedSize);
         if (aged.ok()) aged->flush.Settle();
         return aged.status();
       }},
      {"MemoryTypes",
       {},
       Fill,
       [](StarvedMachine& m) {
         GuestMemoryTypes types;
         types.non_coherent_dma = true;
         return m.vm->SetMemoryTypes(types);
       }},
      {"AVcpuWithAShadow", kShadow, Nothing,
       [](StarvedMachine& m) { return m.vm->CreateVcpu().status(); }},
      {"AView", {}, Fill, [](StarvedMachine& m) { return m.vm->CreateView().status(); }},
      {"TheListOfEptps", {}, Fill, [](StarvedMachine& m) { return m.vm->EptpList().status(); }},
      {"RightsOfAView",
       {},
       FillViews,
       [](StarvedMachine& m) {
         return m.vm->SetViewRights(1, Gfn(5), PageCount(700), Access::ReadExecute());
       }},
      {"RightsOfTheBase",
       {},
       Fill,
       [](StarvedMachine& m) {
         return m.vm->SetViewRights(kBaseView, Gfn(5), PageCount(700), Access::ReadExecute());
       }},
      {"FramesOfAView",
       {},
       FillViews,
       [](StarvedMachine& m) {
         return m.vm->SetViewFrames(1, Gfn(5), PageCount(700), Hfn(GiB(2) >> kPageShift));
       }},
      {"MemoryTypeOfAView",
       {},
       FillViews,
       [](StarvedMachine& m) {
         return m.vm->SetViewMemoryType(1, Gfn(5), PageCount(700),
                                        ViewMemoryType{MemoryType::kUncacheable});
       }},
      {"ExceptionsOfAView",
       {.virtualization_exceptions = Use::kRequire},
       FillViews,
       [](StarvedMachine& m) { return m.vm->SetRaisesVe(1, Gfn(5), PageCount(700), true); }},
      {"ABatch", {}, FillViews, Batch},
      {"ABatchWithReverseMap", kReverse, Fill, BatchOfSlots},
      {"PrivateFrames",
       {.private_memory = true},
       FillPrivate,
       [](StarvedMachine& m) {
         return m.vm->SetMemoryAttributes(Gpa(5 * kPageSize), MiB(3), kMemoryAttributePrivate);
       }},
      {"AFaultOnPrivateMemory",
       {.private_memory = true},
       [](StarvedMachine& m) {
         FillPrivate(m);
         EXPECT_TRUE(m.vm->SetMemoryAttributes(Gpa(0), kStarvedSize, kMemoryAttributePrivate).ok());
       },
       [](StarvedMachine& m) { return m.Fault(77); }},
      {"Populate", {}, HaveRam, [](StarvedMachine& m) { return Populate(m, kBaseView); }},
      {"PopulateAView", {}, FillViews, [](StarvedMachine& m) { return Populate(m, 1); }},
      {"PopulateWithReverseMap", kReverse, HaveRam,
       [](StarvedMachine& m) { return Populate(m, kBaseView); }},
      {"DeletingASlotWithItsLog", kWriteProtect, FillAndLog,
       [](StarvedMachine& m) { return m.vm->DeleteSlot(0, [](uint64_t, uint64_t) {}); }},
      {"MovingASlotWithReverseMap", kReverse, Fill,
       [](StarvedMachine& m) { return m.SetSlot(0, 0, Gpa(MiB(8)), kStarvedSize); }},
      {"LoggingOnWithReverseMap", kReverse, Fill,
       [](StarvedMachine& m) { return m.SetRam(kSlotLogDirtyPages); }},
      {"ZapOfPartOfALeafWithReverseMap", kReverse, Fill,
       [](StarvedMachine& m) { return Settled(m.vm->ZapRange(Gfn(100), PageCount(1000))); }},
      {"ZapOfEverythingWithReverseMap", kReverse, Fill,
       [](StarvedMachine& m) { return Settled(m.vm->ZapAll()); }},
      {"MarkingPages",
       {},
       FillAndLog,
       [](StarvedMachine& m) { return m.vm->MarkDirty(Gpa(0), kStarvedSize); }},
      {"MarkingPagesForRings", kWriteProtect, FillAndLogInRings,
       [](StarvedMachine& m) { return m.vm->MarkDirty(Gpa(0), kStarvedSize); }, false},
      {"HarvestingRings", kWriteProtect,
       [](StarvedMachine& m) {
         FillAndLogInRings(m);
         EXPECT_TRUE(m.Fault(5).ok());
         EXPECT_TRUE(m.vm->MarkDirty(Gpa(0), MiB(1)).ok());
       },
       [](StarvedMachine& m) { return m.vm->HarvestDirtyRings([](const DirtyRingEntry&) {}); },
       false},
      {"TakingALogThatBeganAllDirty", kWriteProtect, FillAndLogAllDirty,
       [](StarvedMachine& m) { return m.Take(); }},
      {"GettingALogThatBeganAllDirty", kWriteProtect, FillAndLogAllDirty,
       [](StarvedMachine& m) { return m.vm->GetDirtyLog(0, [](uint64_t, uint64_t) {}); }},
      {"ClearingALogThatBeganAllDirty", kWriteProtect, FillAndLogAllDirty,
       [](StarvedMachine& m) {
         const std::vector<uint64_t> bits(kStarvedPages / 64, ~uint64_t{0});
         return m.vm->ClearDirtyLog(0, {.first_page = 0, .num_pages = kStarvedPages}, bits);
       }},
      {"PushingTheLogOfDirtyBitsDown",
       {},
       FillAndLog,
       [](StarvedMachine& m) { return m.vm->PushDownDirtyLog(0); }},
      {"AWriteThatIsLoggedByDirtyBits",
       {},
       FillAndLog,
       [](StarvedMachine& m) { return m.Fault(5); }},
      {"TheCpusLog",
       {.dirty_tracking = DirtyTracking::kPml},
       FillAndLog,
       [](StarvedMachine& m) {
         const std::vector<Gpa> pages = {Gpa(0x5000), Gpa(MiB(5)), Gpa(MiB(15))};
         return m.vcpu->LogPml(pages);
       }},
      {"AWalkOfTheGuestsTables",
       {},
       [](StarvedMachine& m) {
         FillAndLog(m);
         m.WriteTables(kGuestBits);
       },
       [](StarvedMachine& m) {
         GuestWalk walk;
         GuestRoots roots;
         roots.cr3 = kPageSize;
         const absl::Status status = m.vcpu->WalkGuest(GuestPaging(FourLevelPaging()), roots,
                                                       Gva(0x5000), GuestAccess::Write(), walk);
         EXPECT_TRUE(!status.ok() || walk.outcome == GuestWalkOutcome::kMapped);
         return status;
       }},
      {"AShadowsFault", kShadow, HaveGuest,
       [](StarvedMachine& m) { return ShadowFault(m, 0x5000); }},
      {"AShadowsFaultThatIsLogged", kShadow,
       [](StarvedMachine& m) {
         HaveGuest(m);
         EXPECT_TRUE(m.SetRam(kSlotLogDirtyPages).ok());
       },
       [](StarvedMachine& m) { return ShadowFault(m, 0x5000); }},
      {"AnEmulatedWrite", kShadow,
       [](StarvedMachine& m) {
         HaveGuest(m);
         EXPECT_TRUE(ShadowFault(m, 0x5000).ok());
         EXPECT_TRUE(m.SetRam(kSlotLogDirtyPages).ok());
       },
       [](StarvedMachine& m) {
         return m.vcpu->shadow()->EmulateWrite(Gpa(0x4028), 8, [](std::byte*) {});
       }},
      {"AWriteToAShadowedTable", kShadow,
       [](StarvedMachine& m) {
         HaveGuest(m);
         EXPECT_TRUE(ShadowFault(m, 0x5000).ok());
       },
       [](StarvedMachine& m) { return m.vcpu->shadow()->OnWritten(Gpa(0x4028), 2 * kPageSize); }},
      {"AnotherAddressSpaceOfAShadow", kShadow,
       [](StarvedMachine& m) {
         HaveGuest(m);
         EXPECT_TRUE(ShadowFault(m, 0x5000).ok());
       },
       [](StarvedMachine& m) {
         if (absl::Status loaded = LoadPaging(m); !loaded.ok()) return loaded;
         return m.vcpu->shadow()->WriteCr3(2 * kPageSize).status();
       }},
      {"ZapOfEverythingShadowed", kShadow,
       [](StarvedMachine& m) {
         HaveGuest(m);
         EXPECT_TRUE(ShadowFault(m, 0x5000).ok());
       },
       [](StarvedMachine& m) { return Settled(m.vm->ZapAll()); }},
      {"AnEntryOfL2", kNested, HaveHypervisor, EnterL2},
      {"AFaultOfL2", kNested, HaveHypervisor,
       [](StarvedMachine& m) {
         if (const absl::Status entered = EnterL2(m); !entered.ok()) return entered;
         return m.vcpu->nested()->HandleViolation(Gpa(0x5000), kWriteFault).status;
       }},
      {"AnInveptOfL1", kNested,
       [](StarvedMachine& m) {
         HaveHypervisor(m);
         EXPECT_TRUE(EnterL2(m).ok());
         EXPECT_TRUE(m.vcpu->nested()->HandleViolation(Gpa(0x5000), kWriteFault).status.ok());
         EXPECT_TRUE(m.vcpu->nested()->Leave().ok());
       },
       [](StarvedMachine& m) {
         return m.vcpu->nested()->Invept(2, Eptp(), ContextOfL2(m).rules).status();
       }},
      {"ADirtyRing", kWriteProtect,
       [](StarvedMachine& m) { EXPECT_TRUE(m.vm->EnableDirtyRing(4096).ok()); },
       [](StarvedMachine& m) {
         auto vcpu = m.vm->CreateVcpu();
         if (vcpu.ok()) m.vcpu = *std::move(vcpu);
         return vcpu.status();
       },
       /*with_vcpu=*/false},
  };
  return *operations;
}

}  // namespace tdp::model
