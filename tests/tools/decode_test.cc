// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `tdp decode` must call wrong what the models of the CPU and the engine refuse, and nothing else.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/backends/sim/ept_rules.h"
#include "tdp/backends/sim/features.h"
#include "tdp/backends/sim/guest_rules.h"
#include "tdp/backends/sim/registers.h"
#include "tdp/mmu/format/ept_capabilities.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/tools/decode/control_words.h"
#include "tdp/tools/decode/ept_words.h"
#include "tdp/tools/decode/guest_words.h"

namespace tdp::tools {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Returns every word with one or two bits other than in `base`.
std::vector<uint64_t> Neighbours(uint64_t base) {
  std::vector<uint64_t> words = {base};
  for (int i = 0; i < 64; ++i) {
    words.push_back(base ^ uint64_t{1} << i);
    for (int j = 0; j < i; ++j) words.push_back(base ^ uint64_t{1} << i ^ uint64_t{1} << j);
  }
  return words;
}

TEST(DecodeEptEntry, FindsAMisconfigurationWhereTheCpuDoes) {
  const EptCapabilities all = EptCapabilities::All();
  for (const EptCapabilities capabilities :
       {all, all.Without(ept::kCapExecuteOnly), all.Without(ept::kCap1G),
        all.Without(ept::kCap2M | ept::kCap1G)}) {
    for (const bool mbec : {false, true}) {
      for (const bool paging_write : {false, true}) {
        sim::CpuFeatures features;
        features.ept = capabilities;
        const sim::EptRules rules(features, mbec, paging_write);
        const EptContext context = {capabilities, features.physical_address_bits, true, mbec,
                                    paging_write};
        for (int level = 1; level <= 5; ++level) {
          for (uint64_t base : {uint64_t{0}, uint64_t{0x40000007}, uint64_t{0x400000b7}}) {
            for (uint64_t entry : Neighbours(base)) {
              const DecodedWord word = DecodeEptEntry(entry, level, context);
              EXPECT_EQ(!word.faults.empty(),
                        rules.IsPresent(entry) && rules.IsMisconfigured(entry, level))
                  << level << " " << DecodedText(word);
            }
          }
        }
      }
    }
  }
}

TEST(DecodePagingEntry, FindsAReservedBitWhereTheCpuDoes) {
  for (const bool no_execute : {false, true}) {
    sim::Registers registers;
    registers.cr0 |= sim::kCr0Pg;
    registers.cr4 = sim::kCr4Pae | sim::kCr4La57;
    registers.efer = sim::kEferLma | (no_execute ? sim::kEferNxe : 0);
    const sim::CpuFeatures features;
    const sim::GuestRules rules(registers, features);
    for (int level = 1; level <= 5; ++level) {
      for (uint64_t base : {uint64_t{0}, uint64_t{0x40000067}, uint64_t{0x400000e7}}) {
        for (uint64_t entry : Neighbours(base)) {
          const DecodedWord word =
              DecodePagingEntry(entry, level, {features.physical_address_bits, no_execute});
          EXPECT_EQ(!word.faults.empty(),
                    (entry & sim::kGuestPresent) != 0 && rules.HasReservedBit(entry, level))
              << level << " " << DecodedText(word);
        }
      }
    }
  }
}

TEST(DecodeEptp, RefusesWhatVmEntryRefuses) {
  const EptCapabilities all = EptCapabilities::All();
  for (const EptCapabilities capabilities :
       {all, all.Without(ept::kCapWalk5 | ept::kCapAccessedDirty | ept::kCapSupervisorShadowStack),
        all.Without(ept::kCapUncacheable)}) {
    for (uint64_t eptp : Neighbours(0x1234501e)) {
      const DecodedWord word =
          DecodeEptp(eptp, {.capabilities = capabilities, .physical_address_bits = 46});
      EXPECT_EQ(word.faults.empty(), Eptp(eptp).Check(capabilities, 46).ok()) << DecodedText(word);
    }
  }
}

TEST(DecodeEptQualification, SaysWhichRightWasMissing) {
  EXPECT_THAT(DecodeEptQualification(0x1aa, {}).summary, HasSubstr("mapped without W"));
  EXPECT_THAT(DecodeEptQualification(0x182, {}).summary, HasSubstr("nothing is mapped"));
  EXPECT_THAT(DecodeEptQualification(0x83, {}).summary, HasSubstr("of a guest paging structure"));
  EXPECT_THAT(DecodeEptQualification(0x1aa, {}).faults, IsEmpty());
  // These have no access, a fetch that reads, and a translated address without a linear one.
  for (uint64_t impossible : {0x0, 0x5, 0x101}) {
    EXPECT_EQ(DecodeEptQualification(impossible, {}).faults.size(), 1u) << impossible;
  }
}

TEST(DecodePageFault, KnowsWhichBitsGoTogether) {
  for (uint64_t possible : {0x0, 0x2, 0x4, 0x7, 0x10, 0x15, 0x9, 0x21}) {
    EXPECT_THAT(DecodePageFault(possible).faults, IsEmpty()) << possible;
  }
  for (uint64_t impossible : {0x8, 0x12, 0x20, 0x10000}) {
    EXPECT_EQ(DecodePageFault(impossible).faults.size(), 1u) << impossible;
  }
}

constexpr size_t At(ControlWord word) { return static_cast<size_t>(word); }

// Returns controls as a hypervisor with EPT has them.
Controls GoodControls() {
  Controls controls;
  controls.words[At(ControlWord::kPin)] = 0x3f;            // external interrupts, NMI, virtual NMIs
  controls.words[At(ControlWord::kPrimary)] = 0x8401e172;  // secondary controls
  controls.words[At(ControlWord::kSecondary)] = 0x2 | 0x80 | 0x20000 | 0x400000;
  controls.words[At(ControlWord::kExit)] = 0x36fff;
  controls.words[At(ControlWord::kEntry)] = 0x13ff;
  return controls;
}

std::vector<std::string> FaultsOf(const Controls& controls) {
  std::vector<std::string> faults;
  for (const DecodedWord& word : DecodeControls(controls)) {
    for (const DecodedWord::Fault& fault : word.faults) faults.push_back(fault.what);
  }
  return faults;
}

TEST(DecodeControls, ThoseOfAHypervisorAreInOrder) {
  EXPECT_THAT(FaultsOf(GoodControls()), IsEmpty());
}

TEST(DecodeControls, AControlThatNeedsAnotherIsFound) {
  struct Case {
    ControlWord word;
    uint64_t flipped;
    std::vector<const char*> messages;
  };
  const Case cases[] = {
      {ControlWord::kPin, 1 << 3, {"\"virtual NMIs\" is 1, and so \"NMI exiting\""}},
      {ControlWord::kPrimary, 1 << 22, {}},
      // A word that is not activated counts as 0.
      {ControlWord::kPrimary, uint64_t{1} << 31, {}},
      {ControlWord::kSecondary,
       0x2,
       {"\"unrestricted guest\" is 1, and so \"enable EPT\"", "\"enable PML\" is 1",
        "\"mode-based execute control for EPT\" is 1"}},
      {ControlWord::kSecondary, 1 << 4, {"\"virtualize x2APIC mode\" is 1, and so \"use TPR"}},
      {ControlWord::kExit, 1 << 22, {"\"save VMX-preemption timer value\" is 1"}},
      {ControlWord::kExit, 1 << 9, {"\"IA-32e mode guest\" is 1, and so \"host address-space"}},
      {ControlWord::kPin, 1 << 8, {"bits 8 are set, but not defined"}},
  };
  for (const Case& c : cases) {
    Controls controls = GoodControls();
    *controls.words[At(c.word)] ^= c.flipped;
    const std::vector<std::string> faults = FaultsOf(controls);
    EXPECT_EQ(faults.size(), c.messages.size()) << c.flipped;
    for (const char* message : c.messages) EXPECT_THAT(faults, Contains(HasSubstr(message)));
  }
}

TEST(DecodeControls, TheMsrSaysWhichMustBe1And0) {
  Controls controls;
  controls.words[At(ControlWord::kPin)] = 0x16 | 1 << 7;
  controls.msrs[At(ControlWord::kPin)] = uint64_t{0x7f} << 32 | 0x17;
  EXPECT_THAT(FaultsOf(controls),
              ElementsAre(HasSubstr("bit 0 \"external-interrupt exiting\" must be 1"),
                          HasSubstr("bit 7 \"process posted interrupts\" must be 0")));
}

TEST(DecodeEptCapabilities, ATypeNeedsItsInstruction) {
  const uint64_t all = EptCapabilities::All().raw();
  EXPECT_THAT(DecodeEptCapabilities(all).faults, IsEmpty());
  EXPECT_THAT(DecodeEptCapabilities(all & ~ept::kCapInvept).faults,
              ElementsAre(Field(&DecodedWord::Fault::what, HasSubstr("INVEPT"))));
  EXPECT_THAT(DecodeEptCapabilities(all & ~ept::kCapInvvpid).faults,
              ElementsAre(Field(&DecodedWord::Fault::what, HasSubstr("INVVPID"))));
}

TEST(BitsText, JoinsNeighbours) {
  EXPECT_EQ(BitsText(0), "");
  EXPECT_EQ(BitsText(0x1382), "12, 9:7, 1");
  EXPECT_EQ(BitsText(~uint64_t{0}), "63:0");
}

}  // namespace
}  // namespace tdp::tools
