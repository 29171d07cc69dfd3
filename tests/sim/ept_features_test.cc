// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests meet exits and the optional powers of EPT, each on a machine whose tables are written
// by hand.

#include <gtest/gtest.h>

#include <cstdint>

#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/virtualization_exception.h"
#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

constexpr uint64_t kGva = 0x40000000;
constexpr uint64_t kGpa = MiB(64);
constexpr uint64_t kHpa = MiB(512);
constexpr uint64_t kLinear = ept::kQualLinearAddressValid | ept::kQualFinalAddress;
// This is the advanced information for a user-mode, writable, executable page.
constexpr uint64_t kAdvanced = ept::kQualUserAddress | ept::kQualGuestWritable;

class EptFeatures : public testing::Test {
 protected:
  explicit EptFeatures(const CpuConfig& config = {}) : world_(config) {
    leaf_ = world_.MapEpt(kGpa, kHpa);
    world_.MapGuest(kGva, kGpa);
    world_.Enter();
  }
  void SetControls(const Controls& controls) {
    ASSERT_TRUE(world_.cpu().SetControls(controls).ok());
  }
  void SetRights(uint64_t rights) {
    world_.Store(leaf_, kHpa | rights | kWriteBack);
    world_.cpu().InveptAll();
  }
  Event Touch(AccessKind kind = AccessKind::kLoad, uint64_t offset = 0, unsigned size = 1) {
    return world_.cpu().Access(Gva(kGva + offset), kind, size).event;
  }
  uint64_t qualification() { return world_.cpu().exit().qualification.raw(); }

  World world_;
  uint64_t leaf_ = 0;
};

TEST_F(EptFeatures, AViolationReportsAccessAndRights) {
  struct Case {
    uint64_t rights;
    AccessKind kind;
    uint64_t expected;
  };
  for (const Case& c : {Case{ept::kRead, AccessKind::kStore, 2 | 1 << 3},
                        Case{ept::kRead, AccessKind::kFetch, 4 | 1 << 3},
                        Case{ept::kExecute, AccessKind::kLoad, 1 | 1 << 5},
                        Case{ept::kRead | ept::kExecute, AccessKind::kModify, 3 | 5 << 3},
                        Case{0, AccessKind::kLoad, 1}}) {
    SetRights(c.rights);
    ASSERT_EQ(Touch(c.kind, 0x123), Event::kEptViolation);
    EXPECT_EQ(qualification(), c.expected | kLinear | kAdvanced);
    EXPECT_EQ(world_.cpu().exit().gpa, Gpa(kGpa + 0x123));
    EXPECT_EQ(world_.cpu().exit().gva, Gva(kGva + 0x123));
  }
}

TEST_F(EptFeatures, AdvancedInformationIsAboutTheGuestsPage) {
  struct Case {
    uint64_t bits;
    uint64_t expected;
  };
  for (const Case& c : {Case{kGuestLeaf & ~kGuestUser, ept::kQualGuestWritable},
                        Case{kGuestLeaf & ~kGuestWrite, ept::kQualUserAddress},
                        Case{kGuestLeaf | kGuestNoExecute, kAdvanced | ept::kQualGuestNoExecute}}) {
    world_.MapGuest(kGva, kGpa, 1, c.bits);
    SetRights(0);
    ASSERT_EQ(Touch(), Event::kEptViolation);
    EXPECT_EQ(qualification(), 1 | kLinear | c.expected);
  }
}

TEST_F(EptFeatures, WithoutAdvancedInformationBits9To11AreClear) {
  CpuFeatures features;
  features.ept = features.ept.Without(ept::kCapAdvancedExitInformation);
  world_.cpu().SetFeatures(features);
  world_.Enter();
  SetRights(0);
  ASSERT_EQ(Touch(), Event::kEptViolation);
  EXPECT_EQ(qualification(), 1 | kLinear);
}

TEST_F(EptFeatures, AMisconfigurationReportsTheGpaAndNoQualification) {
  SetRights(ept::kWrite);
  ASSERT_EQ(Touch(AccessKind::kLoad, 8), Event::kEptMisconfiguration);
  EXPECT_EQ(qualification(), 0u);
  EXPECT_EQ(world_.cpu().exit().gpa, Gpa(kGpa + 8));
}

TEST_F(EptFeatures, AGuestTableOutOfReachIsAViolationThatIsNotFinal) {
  const uint64_t table = world_.cpu().registers().cr3;
  world_.Store(world_.EptEntryAt(table, 1), 0);
  ASSERT_EQ(Touch(), Event::kEptViolation);
  EXPECT_EQ(qualification(), 1 | ept::kQualLinearAddressValid);
  EXPECT_EQ(world_.cpu().exit().gpa, Gpa(table + (kGva >> 39 & 511) * 8));
  // With A/D flags the same access counts as a write too.
  world_.Enter(true);
  ASSERT_EQ(Touch(), Event::kEptViolation);
  EXPECT_EQ(qualification(), 3 | ept::kQualLinearAddressValid);
}

TEST_F(EptFeatures, AnAccessAcrossAPageNeedsBoth) {
  world_.MapGuest(kGva + kPageSize, kGpa + kPageSize);
  ASSERT_EQ(Touch(AccessKind::kLoad, kPageSize - 4, 8), Event::kEptViolation);
  EXPECT_EQ(world_.cpu().exit().gpa, Gpa(kGpa + kPageSize));
  EXPECT_EQ(world_.cpu().exit().length, 4u);
  world_.MapEpt(kGpa + kPageSize, kHpa + MiB(4));
  const AccessResult result = world_.cpu().Access(Gva(kGva + kPageSize - 4), AccessKind::kLoad, 8);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result.hpa, Hpa(kHpa + kPageSize - 4));
}

TEST_F(EptFeatures, AnEptpThatTheCpuNoLongerOffersIsRefusedAgain) {
  ASSERT_EQ(world_.Enter(true), Event::kNone);
  CpuFeatures features = world_.cpu().features();
  features.ept = features.ept.Without(ept::kCapAccessedDirty);
  world_.cpu().SetFeatures(features);
  EXPECT_EQ(world_.Enter(true), Event::kEntryFailure);
}

TEST_F(EptFeatures, AKickEndsAPhysicalAccessToo) {
  world_.cpu().Kick();
  EXPECT_EQ(world_.cpu().AccessGpa(Gpa(kGpa), AccessKind::kLoad).event, Event::kKick);
  EXPECT_EQ(world_.cpu().AccessGpa(Gpa(kGpa), AccessKind::kLoad).event, Event::kNone);
}

TEST(EptFeatures32Bit, AGuestTableOutOfReachIsAnAccessOfFourBytes) {
  World world(NoCaches(), PagingMode::k32Bit);
  world.MapGuest(kGva, kGpa);
  world.Enter();
  world.Store(world.EptEntryAt(world.cpu().registers().cr3, 1), 0);
  ASSERT_EQ(world.cpu().Access(Gva(kGva), AccessKind::kLoad).event, Event::kEptViolation);
  EXPECT_EQ(world.cpu().exit().length, 4u);
}

// --- A/D flags and the log ---

TEST_F(EptFeatures, AWriteSetsAccessedEverywhereAndDirtyInTheLeafOnly) {
  world_.Enter(true);
  ASSERT_EQ(Touch(), Event::kNone);
  EXPECT_EQ(world_.Load(leaf_) & (ept::kAccessed | ept::kDirty), ept::kAccessed);
  ASSERT_EQ(Touch(AccessKind::kStore), Event::kNone);
  EXPECT_EQ(world_.Load(leaf_) & (ept::kAccessed | ept::kDirty), ept::kAccessed | ept::kDirty);
  for (int level = 2; level <= 4; ++level) {
    EXPECT_EQ(world_.Load(world_.EptEntryAt(kGpa, level)) & (ept::kAccessed | ept::kDirty),
              ept::kAccessed);
  }
}

TEST_F(EptFeatures, NothingIsSetWithFlagsOffOrOnAViolation) {
  ASSERT_EQ(Touch(AccessKind::kStore), Event::kNone);
  EXPECT_EQ(world_.Load(leaf_) & (ept::kAccessed | ept::kDirty), 0u);
  world_.Enter(true);
  SetRights(ept::kRead);
  ASSERT_EQ(Touch(AccessKind::kStore), Event::kEptViolation);
  EXPECT_EQ(world_.Load(leaf_) & (ept::kAccessed | ept::kDirty), 0u);
}

class PageModificationLog : public EptFeatures {
 protected:
  PageModificationLog() {
    Controls controls;
    controls.pml = true;
    log_ = world_.NewFrame();
    controls.pml_address = Hpa(log_);
    SetControls(controls);
    world_.Enter(true);
    // The guest's own tables are written too, by A/D flags: this touch gets that out of the log.
    Touch();
    world_.cpu().set_pml_index(511);
  }
  uint64_t log_ = 0;
};

TEST_F(PageModificationLog, HoldsEachPageOnceWhenItBecomesDirty) {
  ASSERT_EQ(Touch(AccessKind::kStore, 0x234), Event::kNone);
  ASSERT_EQ(Touch(AccessKind::kStore, 0x238), Event::kNone);
  EXPECT_EQ(world_.cpu().pml_index(), 510);
  EXPECT_EQ(world_.Load(log_ + 511 * 8), kGpa);
}

TEST_F(PageModificationLog, DoesNotHoldAPageThatWasDirtyBefore) {
  world_.Store(leaf_, (world_.Load(leaf_) | ept::kDirty) & ~ept::kAccessed);
  world_.cpu().InveptAll();
  ASSERT_EQ(Touch(AccessKind::kStore), Event::kNone);
  EXPECT_NE(world_.Load(leaf_) & ept::kAccessed, 0u);
  EXPECT_EQ(world_.cpu().pml_index(), 511);
}

TEST_F(EptFeatures, ReservedBitsOfAnEntryThatIsNotPresentMeanNothing) {
  world_.Store(leaf_, uint64_t{1} << 51 | 1 << 6);
  world_.cpu().InveptAll();
  EXPECT_EQ(Touch(), Event::kEptViolation);
}

TEST_F(PageModificationLog, WhenFullExitsBeforeTheAccessAndSetsNothing) {
  world_.cpu().set_pml_index(0);
  ASSERT_EQ(Touch(AccessKind::kStore), Event::kNone);
  EXPECT_EQ(world_.Load(log_), kGpa);
  EXPECT_EQ(world_.cpu().pml_index(), 0xffff);
  world_.Store(leaf_, kHpa | kRwx | kWriteBack);
  world_.cpu().InveptAll();
  const uint64_t before = world_.Load(leaf_);
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kPmlFull);
  EXPECT_EQ(world_.Load(leaf_), before);
  EXPECT_EQ(world_.cpu().exit().gpa, Gpa(0)) << "such an exit tells no address";
  EXPECT_EQ(world_.cpu().exit().gva, Gva(0));
  EXPECT_EQ(world_.cpu().exit().length, 0u);
  world_.cpu().set_pml_index(511);
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kNone);
}

TEST_F(PageModificationLog, WhenFullExitsAlsoWhereOnlyAccessedIsToBeSet) {
  const uint64_t before = world_.Load(leaf_) & ~(ept::kAccessed | ept::kDirty);
  world_.Store(leaf_, before);
  world_.cpu().InveptAll();
  world_.cpu().set_pml_index(512);
  EXPECT_EQ(Touch(AccessKind::kLoad), Event::kPmlFull);
  EXPECT_EQ(world_.Load(leaf_), before);
  world_.Store(leaf_, before | ept::kAccessed);
  EXPECT_EQ(Touch(AccessKind::kLoad), Event::kNone) << "nothing is to be set";
}

TEST_F(EptFeatures, AnAddressBeyondAFourLevelEptIsAViolationWithoutRights) {
  World world(NoCaches());
  CpuFeatures features;
  features.physical_address_bits = 52;
  world.cpu().SetFeatures(features);
  world.MapEpt(kGpa, kHpa);
  world.MapGuest(kGva, kGpa | uint64_t{1} << 48);
  world.Enter();
  EXPECT_EQ(world.cpu().Access(Gva(kGva), AccessKind::kLoad).event, Event::kEptViolation);
  EXPECT_EQ(world.cpu().exit().gpa, Gpa(kGpa | uint64_t{1} << 48));
  EXPECT_EQ(world.cpu().exit().qualification.raw() & 0x1ff, 1 | kLinear);
}

// --- MBEC ---

TEST_F(EptFeatures, MbecChoosesTheExecuteRightByThePagesMode) {
  Controls controls;
  controls.mbec = true;
  SetControls(controls);
  // The page is a user page of the guest: bit 10 decides, whoever fetches.
  SetRights(ept::kRead | ept::kUserExecute);
  EXPECT_EQ(Touch(AccessKind::kFetch), Event::kNone);
  SetRights(ept::kRead | ept::kExecute);
  EXPECT_EQ(Touch(AccessKind::kFetch), Event::kEptViolation);
  EXPECT_EQ(qualification(), 4 | 1 << 3 | 1 << 5 | kLinear | kAdvanced);
  // Now the page is a supervisor page: bit 2 decides.
  world_.MapGuest(kGva, kGpa, 1, kGuestLeaf & ~kGuestUser);
  world_.cpu().Invlpg(Gva(kGva));
  EXPECT_EQ(Touch(AccessKind::kFetch), Event::kNone);
  SetRights(ept::kRead | ept::kUserExecute);
  EXPECT_EQ(Touch(AccessKind::kFetch), Event::kEptViolation);
  EXPECT_EQ(qualification() & (15 << 3), uint64_t{1 << 3 | 1 << 6});
}

TEST_F(EptFeatures, UnderMbecACachedUserPageHasTheUsersRight) {
  Controls controls;
  controls.mbec = true;
  SetControls(controls);
  for (const uint64_t right : {ept::kExecute, ept::kUserExecute}) {
    SetRights(ept::kRead | right);
    ASSERT_EQ(Touch(AccessKind::kLoad), Event::kNone);
    const bool users = right == ept::kUserExecute;
    EXPECT_EQ(Touch(AccessKind::kFetch), users ? Event::kNone : Event::kEptViolation);
  }
}

TEST_F(EptFeatures, UnderMbecBit10AloneMakesAnEntryPresent) {
  SetRights(ept::kUserExecute);
  EXPECT_EQ(Touch(AccessKind::kFetch), Event::kEptViolation);
  EXPECT_EQ(qualification() & (15 << 3), 0u);
  Controls controls;
  controls.mbec = true;
  SetControls(controls);
  EXPECT_EQ(Touch(AccessKind::kFetch), Event::kNone);
}

// --- #VE ---

class VirtualizationException : public EptFeatures {
 protected:
  VirtualizationException() {
    Controls controls;
    controls.ve = true;
    page_ = world_.NewFrame();
    controls.ve_information = Hpa(page_);
    SetControls(controls);
    world_.cpu().set_eptp_index(7);
  }
  uint64_t page_ = 0;
};

TEST_F(VirtualizationException, FillsItsPageAndIsNotDeliveredTwice) {
  SetRights(0);
  ASSERT_EQ(Touch(AccessKind::kStore, 0x40), Event::kVirtualizationException);
  EXPECT_EQ(world_.physical().Load<uint32_t>(page_ + kVeReason), 48u);
  EXPECT_EQ(world_.physical().Load<uint32_t>(page_ + kVeBusy), 0xffffffffu);
  EXPECT_EQ(world_.Load(page_ + kVeQualification), 2 | kLinear | kAdvanced);
  EXPECT_EQ(world_.Load(page_ + kVeGva), kGva + 0x40);
  EXPECT_EQ(world_.Load(page_ + kVeGpa), kGpa + 0x40);
  EXPECT_EQ(world_.physical().Load<uint32_t>(page_ + kVeEptpIndex), 7u);
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kEptViolation) << "the page is busy";
  world_.physical().Store<uint32_t>(page_ + kVeBusy, 0);
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kVirtualizationException);
}

TEST_F(VirtualizationException, IsSuppressedByBit63OfTheEntryThatEndedTheWalk) {
  SetRights(ept::kSuppressVe);
  EXPECT_EQ(Touch(), Event::kEptViolation) << "an entry that is not present";
  SetRights(ept::kSuppressVe | ept::kRead);
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kEptViolation) << "a leaf that lacks a right";
  EXPECT_EQ(Touch(AccessKind::kLoad), Event::kNone);
}

TEST_F(VirtualizationException, IsNotSuppressedByBit63OfATable) {
  const uint64_t table = world_.EptEntryAt(kGpa, 2);
  world_.Store(table, world_.Load(table) | ept::kSuppressVe);
  SetRights(ept::kRead);
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kVirtualizationException) << "the leaf decides";
  world_.physical().Store<uint32_t>(page_ + kVeBusy, 0);
  world_.Store(table, world_.Load(table) & ~ept::kRightsMask & ~ept::kUserExecute);
  world_.cpu().InveptAll();
  EXPECT_EQ(Touch(), Event::kEptViolation) << "not present: any level's bit 63 decides";
}

TEST_F(VirtualizationException, IsNotDeliveredInRealMode) {
  SetRights(0);
  world_.ChangeRegisters([](Registers& r) { r = {.cr0 = 0}; });
  EXPECT_EQ(world_.cpu().Access(Gva(kGpa), AccessKind::kLoad).event, Event::kEptViolation);
  world_.ChangeRegisters([](Registers& r) { r.cr0 = kCr0Pe; });
  EXPECT_EQ(world_.cpu().Access(Gva(kGpa), AccessKind::kLoad).event,
            Event::kVirtualizationException);
}

TEST_F(VirtualizationException, StandsForAViolationOfAPhysicalAccessToo) {
  SetRights(0);
  EXPECT_EQ(world_.cpu().AccessGpa(Gpa(kGpa), AccessKind::kLoad).event,
            Event::kVirtualizationException);
}

// The worst CPU faults by the rights that it kept, and by the bit 63 that it kept with them.
TEST(VirtualizationExceptionOfAKeptRight, IsSuppressedByTheLeafAsItWas) {
  for (const bool suppressed : {false, true}) {
    CpuConfig config;
    config.policy = CachePolicy::kAdversarial;
    World world(config);
    const uint64_t bits = ept::kRead | kWriteBack | (suppressed ? ept::kSuppressVe : 0);
    const uint64_t leaf = world.MapEpt(GiB(2), GiB(8), 2, bits);
    world.MapGuest(GiB(3), GiB(2), 2);
    world.Enter();
    Controls controls;
    controls.ve = true;
    controls.ve_information = Hpa(world.NewFrame());
    ASSERT_TRUE(world.cpu().SetControls(controls).ok());
    ASSERT_TRUE(world.cpu().Access(Gva(GiB(3)), AccessKind::kLoad).ok());
    world.Store(leaf, GiB(8) | kRwx | kWriteBack | ept::kLargePage);
    const Gva gva(GiB(3) + 5 * kPageSize + 8);
    EXPECT_EQ(world.cpu().Access(gva, AccessKind::kStore).event,
              suppressed ? Event::kEptViolation : Event::kVirtualizationException);
    EXPECT_EQ(world.cpu().exit().gpa, Gpa(GiB(2) + 5 * kPageSize + 8));
    EXPECT_TRUE(world.cpu().Access(gva, AccessKind::kStore).ok());
  }
}

TEST_F(VirtualizationException, NeverStandsForAMisconfiguration) {
  SetRights(ept::kWrite);
  EXPECT_EQ(Touch(), Event::kEptMisconfiguration);
}

TEST_F(VirtualizationException, StandsForAViolationOfALoadOfPdptesToo) {
  world_.SetMode(PagingMode::kPae);
  SetRights(0);
  EXPECT_EQ(world_.cpu().WriteCr3(kGpa), Event::kVirtualizationException);
  EXPECT_EQ(world_.Load(page_ + kVeQualification), 1u) << "a read, of no linear address";
  EXPECT_EQ(world_.Load(page_ + kVeGpa), kGpa);
  EXPECT_EQ(world_.cpu().WriteCr3(kGpa), Event::kEptViolation) << "the page is busy";
}

// --- EPTP switching ---

TEST_F(EptFeatures, VmfuncTakesAnEptpFromTheListWithoutAFlush) {
  const uint64_t list = world_.NewFrame();
  Controls controls;
  controls.eptp_switching = true;
  controls.eptp_list = Hpa(list);
  SetControls(controls);
  // The second view has the same tables above, but its root's other half is empty.
  const uint64_t other_root = world_.NewFrame();
  world_.Store(other_root, world_.Load(world_.eptp().root().raw()));
  world_.Store(list + 8, Eptp::Make(Hpa(other_root), 4, false).raw());
  ASSERT_EQ(Touch(), Event::kNone);
  EXPECT_EQ(world_.cpu().Vmfunc(0, 1), Event::kNone);
  EXPECT_EQ(world_.cpu().eptp().root(), Hpa(other_root));
  EXPECT_EQ(world_.cpu().eptp_index(), 1);
  world_.cpu().ClearCounters();
  ASSERT_EQ(Touch(), Event::kNone);
  EXPECT_EQ(world_.cpu().counters().tlb_hits, 0u) << "another EP4TA tags other translations";
  world_.Enter();
  world_.cpu().ClearCounters();
  ASSERT_EQ(Touch(), Event::kNone);
  EXPECT_EQ(world_.cpu().counters().tlb_hits, 1u) << "the first view's are still there";
}

TEST_F(EptFeatures, VmfuncExitsOnABadIndexLeafOrEptp) {
  const uint64_t list = world_.NewFrame();
  Controls controls;
  controls.eptp_switching = true;
  controls.eptp_list = Hpa(list);
  SetControls(controls);
  EXPECT_EQ(world_.cpu().Vmfunc(0, 512), Event::kVmfunc);
  EXPECT_EQ(world_.cpu().Vmfunc(0, 0), Event::kVmfunc) << "EPTP 0 is not one";
  world_.Store(list, world_.eptp().raw());
  EXPECT_EQ(world_.cpu().Vmfunc(1, 0), Event::kVmfunc) << "there is no such leaf";
  EXPECT_EQ(world_.cpu().Vmfunc(0, 0), Event::kNone);
  controls.ept = false;
  SetControls(controls);
  EXPECT_EQ(world_.cpu().Vmfunc(0, 0), Event::kVmfunc) << "EPT is off";
  controls.ept = true;
  controls.eptp_switching = false;
  SetControls(controls);
  EXPECT_EQ(world_.cpu().Vmfunc(0, 0), Event::kVmfunc);
}

// --- SPP ---

class SubPages : public EptFeatures {
 protected:
  SubPages() {
    Controls controls;
    controls.spp = true;
    uint64_t table = world_.NewFrame();
    controls.sppt_root = Hpa(table);
    for (int level = 4; level >= 2; --level) {
      const uint64_t next = world_.NewFrame();
      upper_ = table + (kGpa >> (12 + 9 * (level - 1)) & 511) * 8;
      world_.Store(upper_, next | 1);
      table = next;
    }
    vector_ = table + (kGpa >> 12 & 511) * 8;
    SetControls(controls);
    SetRights(ept::kRead | ept::kSubPageWrite);
  }
  uint64_t upper_ = 0;
  uint64_t vector_ = 0;
};

TEST_F(SubPages, AllowWritesToTheMarkedPiecesOnly) {
  world_.Store(vector_, uint64_t{1} << 2 * 3 | uint64_t{1} << 2 * 4);
  EXPECT_EQ(Touch(AccessKind::kStore, 3 * 128), Event::kNone);
  EXPECT_EQ(Touch(AccessKind::kStore, 4 * 128 + 127), Event::kNone);
  EXPECT_EQ(Touch(AccessKind::kStore, 4 * 128 - 4, 8), Event::kNone) << "two allowed pieces";
  EXPECT_EQ(Touch(AccessKind::kStore, 3 * 128 - 1), Event::kEptViolation);
  EXPECT_EQ(Touch(AccessKind::kStore, 5 * 128 - 4, 8), Event::kEptViolation);
  EXPECT_EQ(Touch(AccessKind::kLoad, 0), Event::kNone);
}

TEST_F(SubPages, AMissingEntryAndAReservedBitAreSppEvents) {
  world_.Store(vector_, 2);
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kSppEvent);
  EXPECT_EQ(qualification() & kSppMiss, 0u);
  world_.Store(upper_, 0);
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kSppEvent);
  EXPECT_EQ(qualification() & kSppMiss, kSppMiss);
  EXPECT_EQ(world_.cpu().exit().gpa, Gpa(kGpa));
}

TEST_F(SubPages, AreIgnoredWithoutTheControlOrTheBit) {
  world_.Store(vector_, ~uint64_t{0} / 3);
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kNone);
  SetRights(ept::kRead);
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kEptViolation);
  SetRights(ept::kRead | ept::kSubPageWrite);
  SetControls(Controls());
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kEptViolation);
}

// --- paging-write, guest-paging verification, supervisor shadow stacks ---

TEST_F(EptFeatures, PagingWriteLetsGuestTablesBeUpdatedInReadOnlyPages) {
  const uint64_t entry = world_.GuestEntryAt(kGva, 1);
  const uint64_t table = (entry & ~kPageOffsetMask) - World::kGuestMemory;
  world_.Store(entry, world_.Load(entry) & ~kGuestAccessed);
  const uint64_t table_leaf = world_.EptEntryAt(table, 1);
  const uint64_t read_only = (world_.Load(table_leaf) & ~ept::kWrite) | ept::kPagingWrite;
  world_.Store(table_leaf, read_only);
  EXPECT_EQ(Touch(), Event::kEptViolation) << "without the control";
  EXPECT_EQ(qualification() & 3, 2u) << "the update of a flag is a write";
  Controls controls;
  controls.paging_write = true;
  SetControls(controls);
  EXPECT_EQ(Touch(), Event::kNone);
  EXPECT_NE(world_.Load(entry) & kGuestAccessed, 0u);
  // The entries above the leaf must give W all the same.
  world_.Store(entry, world_.Load(entry) & ~kGuestAccessed);
  const uint64_t upper = world_.EptEntryAt(table, 2);
  world_.Store(upper, world_.Load(upper) & ~ept::kWrite);
  world_.cpu().InveptAll();
  EXPECT_EQ(Touch(), Event::kEptViolation);
}

TEST_F(EptFeatures, GuestPagingVerificationWantsPagingWriteTables) {
  Controls controls;
  controls.paging_write = true;
  controls.guest_paging_verification = true;
  SetControls(controls);
  SetRights(kRwx | ept::kVerifyGuestPaging);
  EXPECT_EQ(Touch(), Event::kEptViolation);
  EXPECT_NE(qualification() & ept::kQualGuestPagingVerification, 0u);
  for (int level = 1; level <= 4; ++level) {
    const uint64_t table =
        (world_.GuestEntryAt(kGva, level) & ~kPageOffsetMask) - World::kGuestMemory;
    const uint64_t place = world_.EptEntryAt(table, 1);
    world_.Store(place, world_.Load(place) | ept::kPagingWrite);
  }
  world_.cpu().InveptAll();
  EXPECT_EQ(Touch(), Event::kNone);
}

// The page that demands nothing leaves an upper entry behind, by which its neighbour is reached.
TEST_F(EptFeatures, GuestPagingVerificationRemembersTheTablesAboveACachedEntry) {
  Controls controls;
  controls.paging_write = true;
  controls.guest_paging_verification = true;
  SetControls(controls);
  world_.MapGuest(kGva + kPageSize, kGpa + kPageSize);
  world_.MapEpt(kGpa + kPageSize, kHpa, 1, kRwx | kWriteBack | ept::kVerifyGuestPaging);
  const uint64_t table = (world_.GuestEntryAt(kGva, 1) & ~kPageOffsetMask) - World::kGuestMemory;
  const uint64_t place = world_.EptEntryAt(table, 1);
  world_.Store(place, world_.Load(place) | ept::kPagingWrite);
  ASSERT_EQ(Touch(), Event::kNone);
  EXPECT_EQ(Touch(AccessKind::kLoad, kPageSize), Event::kEptViolation);
}

TEST_F(EptFeatures, SupervisorShadowStacksNeedBit60OfTheLeaf) {
  const Eptp eptp(world_.eptp().raw() | ept::kEptpSupervisorShadowStack);
  ASSERT_EQ(world_.cpu().Enter(eptp), Event::kNone);
  const AccessRequest push = {
      .gva = kGva, .kind = AccessKind::kStore, .size = 8, .shadow_stack = true};
  SetRights(kRwx);
  ASSERT_EQ(Touch(AccessKind::kStore), Event::kNone) << "it is kept for ordinary stores";
  EXPECT_EQ(world_.cpu().Access(push).event, Event::kEptViolation);
  EXPECT_NE(qualification() & ept::kQualShadowStackAccess, 0u);
  SetRights(ept::kRead | ept::kSupervisorShadowStack);
  EXPECT_EQ(world_.cpu().Access(push).event, Event::kNone);
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kEptViolation) << "ordinary stores need W";
  EXPECT_NE(qualification() & ept::kQualSupervisorShadowStack, 0u) << "bit 60 of the leaf";
  const uint64_t upper = world_.EptEntryAt(kGpa, 2);
  world_.Store(upper, world_.Load(upper) & ~ept::kWrite);
  world_.cpu().InveptAll();
  EXPECT_EQ(world_.cpu().Access(push).event, Event::kEptViolation) << "W above the leaf";
}

TEST_F(EptFeatures, WithoutSupervisorShadowStacksBit60MeansNothing) {
  SetRights(ept::kRead | ept::kSupervisorShadowStack);
  EXPECT_EQ(Touch(AccessKind::kStore), Event::kEptViolation);
  EXPECT_EQ(qualification() & ept::kQualSupervisorShadowStack, 0u);
}

// --- misuse ---

TEST_F(EptFeatures, AControlThatTheCpuLacksIsRefusedByName) {
  CpuFeatures features;
  features.pml = false;
  world_.cpu().SetFeatures(features);
  Controls controls;
  controls.pml = true;
  const absl::Status status = world_.cpu().SetControls(controls);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("pml"), std::string::npos);
  EXPECT_FALSE(world_.cpu().controls().pml);
}

TEST_F(EptFeatures, AnEptpThatVmEntryRefusesIsAnEntryFailure) {
  EXPECT_EQ(world_.cpu().Enter(Eptp(0)), Event::kEntryFailure);
  EXPECT_EQ(world_.cpu().eptp(), world_.eptp());
}

}  // namespace
}  // namespace tdp::sim
