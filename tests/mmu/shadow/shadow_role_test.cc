// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Registers and capabilities of the guest's CPU decide what an entry means: a table that was
// shadowed under one value must not be found under another.

#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tests/mmu/shadow/shadow_machine.h"

namespace tdp::shadow_test {
namespace {

constexpr uint64_t kAll = 0x67;  // present, writable, user, A, D
constexpr Gpa kHighMemory{uint64_t{1} << 44};

// A case has two states of the guest's CPU, over the same tables. Those of 8-byte entries are in
// frames 1 to 4 (5: a PDPT over frame 3; 6: a PML5 over frame 1) and map gva 0x10000 to the frame
// of the same number.
struct Case {
  std::string name;
  GuestCpu before;
  GuestCpu after;
  // The test writes this entry first.
  uint64_t at = 0;
  uint64_t entry = 0;
  // The two states must see something else in some access, or the case shows nothing.
  bool differs = true;
};

GuestCpu In(PagingMode mode) {
  GuestCpu cpu = GuestIn(mode);
  switch (mode) {
    case PagingMode::kNone:
      break;
    case PagingMode::k32Bit:
      cpu.cr3 = 0x7000;
      break;
    case PagingMode::kPae:
      cpu.cr3 = 0x5000;
      break;
    case PagingMode::k4Level:
      cpu.cr3 = 0x1000;
      break;
    case PagingMode::k5Level:
      cpu.cr3 = 0x6000;
      break;
  }
  return cpu;
}

template <typename Change>
GuestCpu With(GuestCpu cpu, Change change) {
  change(cpu);
  return cpu;
}

std::vector<Case> Cases() {
  constexpr uint64_t kLeaf = 0x4000 + 16 * 8;
  constexpr uint64_t kDirectory = 0x3000;
  constexpr uint64_t kPointers = 0x2000;
  const GuestCpu four = In(PagingMode::k4Level);
  const GuestCpu narrow = In(PagingMode::k32Bit);
  const GuestCpu no_wp = With(four, [](GuestCpu& c) { c.cr0 &= ~sim::kCr0Wp; });
  const auto without_pse = [](GuestCpu& c) { c.cr4 &= ~sim::kCr4Pse; };
  const auto width_40 = [](GuestCpu& c) { c.physical_address_bits = 40; };
  const uint64_t read_only = 0x10000 | (kAll & ~guest::kWrite);
  std::vector<Case> cases;
  cases.push_back(
      {"Pse", With(narrow, without_pse), narrow, 0x7000, 0x8000 | guest::kLargePage | kAll});
  cases.push_back(
      {"PseOfAPlainPage", narrow, With(narrow, without_pse), 0x7000, guest::kLargePage | kAll});
  cases.push_back({"Pages1G", four, With(four, [](GuestCpu& c) { c.pages_1g = false; }), kPointers,
                   guest::kLargePage | kAll});
  cases.push_back({"WidthOfALeaf", four, With(four, width_40), kLeaf, kHighMemory.raw() | kAll});
  cases.push_back({"WidthOfALink", four, With(four, width_40), kDirectory,
                   (kHighMemory.raw() + kPageSize) | kAll});
  cases.push_back({"WidthOfAPsePage", narrow,
                   With(narrow, [](GuestCpu& c) { c.physical_address_bits = 36; }), 0x7000,
                   uint64_t{1} << (guest::kPse36Shift + 7) | guest::kLargePage | kAll});
  cases.push_back({"NoExecute", four, With(four, [](GuestCpu& c) { c.efer &= ~sim::kEferNxe; }),
                   kLeaf, guest::kNoExecute | 0x10000 | kAll});
  cases.push_back({"WriteProtect", no_wp, four, kLeaf, read_only});
  cases.push_back({"SmepWithoutWp", no_wp, With(no_wp, [](GuestCpu& c) { c.cr4 |= sim::kCr4Smep; }),
                   kLeaf, read_only});
  cases.push_back({"SmapWithoutWp", no_wp, With(no_wp, [](GuestCpu& c) { c.cr4 |= sim::kCr4Smap; }),
                   kLeaf, read_only});
  cases.push_back(
      {"Smep", four, With(four, [](GuestCpu& c) { c.cr4 |= sim::kCr4Smep; }), kLeaf, read_only});
  cases.push_back(
      {"Smap", four, With(four, [](GuestCpu& c) { c.cr4 |= sim::kCr4Smap; }), kLeaf, read_only});
  cases.push_back({"IgnoredBitsOf4LevelAreReservedInPae",
                   With(four, [](GuestCpu& c) { c.pages_1g = false; }), In(PagingMode::kPae),
                   kDirectory, guest::Bit(55) | 0x4000 | kAll});
  cases.push_back({"FiveLevels", four, In(PagingMode::k5Level), kLeaf, 0x10000 | kAll, false});
  cases.push_back({"WideEntries", narrow,
                   With(In(PagingMode::kPae), [](GuestCpu& c) { c.cr3 = 0x5000; }), kLeaf,
                   0x20000 | kAll});
  cases.push_back({"NoPaging", four, In(PagingMode::kNone), kLeaf, 0x20000 | kAll});
  return cases;
}

class ShadowRole : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(machine_.memory().Map(Hva(0x7e0000000000), MiB(4)).ok());
    ASSERT_TRUE(machine_.SetRam(1, kHighMemory, MiB(4), Hva(0x7e0000000000)).ok());
    Table(1, 0, 0x2000 | kAll);
    Table(2, 0, 0x3000 | kAll);
    Table(3, 0, 0x4000 | kAll);
    for (uint64_t i = 1; i < 64; ++i) Table(4, i, i << kPageShift | kAll);
    Table(5, 0, 0x3000 | 1);
    Table(6, 0, 0x1000 | kAll);
    // Frame 7 is a directory of 4-byte entries, and frame 8 its table.
    machine_.Poke<uint32_t>(Gpa(0x7000), 0x8000 | kAll);
    for (uint64_t i = 1; i < 64; ++i) {
      machine_.Poke(Gpa(0x8000 + i * 4), static_cast<uint32_t>(i << kPageShift | kAll));
    }
    // One more table lies in high memory.
    const uint64_t leaf = 0x30000 | kAll;
    std::memcpy(*machine_.memory().AtHva(Hva(0x7e0000000000) + kPageSize + 16 * 8), &leaf, 8);
  }
  void TearDown() override {
    const absl::Status status = machine_.vm().CheckInvariants();
    EXPECT_TRUE(status.ok()) << status;
  }
  void Table(uint64_t frame, uint64_t index, uint64_t entry) {
    machine_.Poke<uint64_t>(Gpa((frame << kPageShift) + index * 8), entry);
  }

  static std::vector<Request> Requests() {
    std::vector<Request> all;
    for (const auto kind :
         {sim::AccessKind::kLoad, sim::AccessKind::kStore, sim::AccessKind::kFetch}) {
      for (const bool user : {false, true}) all.push_back({Gva(0x10000), kind, user});
    }
    return all;
  }
  // Returns what the access sees on that CPU; on the shadow it must be what it is on EPT.
  Seen Look(const GuestCpu& cpu, const Request& request) {
    EXPECT_EQ(machine_.Load(cpu), GuestEvent::kNone);
    const Seen seen = machine_.Access(request);
    EXPECT_EQ(seen, machine_.Reference(request))
        << "kind " << static_cast<int>(request.kind) << " user " << request.user;
    return seen;
  }

  Machine machine_;
};

TEST_P(ShadowRole, ATableIsReadAsTheCpuReadsItNow) {
  const Case& c = GetParam();
  if (c.before.cr3 == 0x7000 && c.at == 0x7000) {
    machine_.Poke(Gpa(c.at), static_cast<uint32_t>(c.entry));
  } else {
    machine_.Poke(Gpa(c.at), c.entry);
  }
  // The other state must not find what the one has left in the leaf.
  bool differs = false;
  for (const Request& first : Requests()) {
    for (const Request& second : Requests()) {
      Look(c.before, first);
      const Seen after = Look(c.after, second);
      Look(c.after, first);
      differs |= Look(c.before, second) != after;
    }
  }
  EXPECT_EQ(differs, c.differs);
}

INSTANTIATE_TEST_SUITE_P(Of, ShadowRole, testing::ValuesIn(Cases()),
                         [](const auto& test) { return test.param.name; });

TEST(ShadowRoles, AWidthThatNoCpuHasIsRefusedByName) {
  Machine machine;
  for (const int bits : {0, 31, 53, 64}) {
    GuestControls controls = GuestIn(PagingMode::k4Level).controls();
    controls.physical_address_bits = bits;
    const auto event = machine.shadow().SetPaging(controls, 0x1000);
    EXPECT_TRUE(absl::IsInvalidArgument(event.status())) << event.status();
    EXPECT_NE(event.status().message().find("physical_address_bits"), std::string::npos);
  }
}

}  // namespace
}  // namespace tdp::shadow_test
