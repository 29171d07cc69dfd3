// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The page tables of booted kernels are shadowed completely here: every mapping is accessed, and
// then the shadow is compared with what the kernel's tables say.

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tests/mmu/shadow/shadow_machine.h"
#include "tests/oracles/recorded_file.h"

namespace tdp::oracles {
namespace {

using shadow_test::GuestCpu;
using shadow_test::Machine;
using shadow_test::MachineOptions;
using shadow_test::Request;
using shadow_test::Seen;

constexpr ByteCount kRam = MiB(128);

bool IsMemory(const RecordedLeaf& leaf) { return leaf.gpa < kRam; }

// The parameters are the directory and the order of the host's pages.
class ShadowedKernel : public testing::TestWithParam<std::tuple<const char*, int>> {
 protected:
  void SetUp() override {
    MachineOptions options;
    options.ram = kRam;
    options.host_order = std::get<1>(GetParam());
    // All of a kernel's mappings are shadowed at once: more than a guest of this size has by
    // default.
    options.vm.shadow_page_quota = 4096;
    options.cpu.features.physical_address_bits = 52;
    machine_ = std::make_unique<Machine>(options);
    const auto tables = ReadRecordedFile(File("tables.bin.zst"));
    ASSERT_TRUE(tables.ok()) << tables.status();
    LoadTables(*tables);
    ASSERT_NO_FATAL_FAILURE(LoadRegisters());
    ASSERT_NO_FATAL_FAILURE(ReadLeaves());
  }

  static std::string File(const char* name) {
    return absl::StrFormat("guestwalk/%s/%s", std::get<0>(GetParam()), name);
  }

  // Loads records of a u64 address and the 4096 bytes there.
  void LoadTables(const std::string& records) {
    constexpr size_t kRecord = 8 + kPageSize;
    for (size_t at = 0; at + kRecord <= records.size(); at += kRecord) {
      uint64_t gpa;
      std::memcpy(&gpa, records.data() + at, 8);
      std::memcpy(*machine_->memory().AtHva(Machine::kRam + gpa), records.data() + at + 8,
                  kPageSize);
    }
  }

  void LoadRegisters() {
    const auto lines = ReadRecordedLines(File("regs.txt"));
    ASSERT_TRUE(lines.ok()) << lines.status();
    std::map<std::string, std::string> values;
    for (const std::string& line : *lines) {
      values.insert(absl::StrSplit(line, absl::MaxSplits('=', 1)));
    }
    GuestCpu cpu;
    ASSERT_TRUE(absl::SimpleHexAtoi(values["cr0"], &cpu.cr0) &&
                absl::SimpleHexAtoi(values["cr3"], &cpu.cr3) &&
                absl::SimpleHexAtoi(values["cr4"], &cpu.cr4) &&
                absl::SimpleHexAtoi(values["efer"], &cpu.efer));
    // Every key in these tables is 0, which allows everything.
    cpu.cr4 &= ~(guest::kCr4UserKeys | guest::kCr4SupervisorKeys);
    ASSERT_EQ(machine_->Load(cpu), GuestEvent::kNone);
  }

  void ReadLeaves() {
    const auto lines = ReadRecordedLines(File("leaves.txt.zst"));
    ASSERT_TRUE(lines.ok()) << lines.status();
    for (const std::string& line : *lines) leaves_.push_back(ParseLeaf(line));
    ASSERT_GT(leaves_.size(), 1000u);
  }

  // Returns the first page of the leaf, the last, and one between.
  static std::vector<uint64_t> OffsetsIn(const RecordedLeaf& leaf) {
    if (leaf.size == kPageSize) return {0x123};
    return {0, leaf.size / 3, leaf.size - 1};
  }

  std::unique_ptr<Machine> machine_;
  std::vector<RecordedLeaf> leaves_;
};

TEST_P(ShadowedKernel, MapsEveryLeafToItsFrameWithItsRights) {
  for (const RecordedLeaf& leaf : leaves_) {
    for (const uint64_t offset : OffsetsIn(leaf)) {
      const Seen seen =
          machine_->Access({Gva(leaf.gva + offset), sim::AccessKind::kLoad, leaf.user});
      if (IsMemory(leaf)) {
        ASSERT_EQ(seen, (Seen{Seen::What::kMemory, machine_->HpaOf(Gpa(leaf.gpa + offset))}))
            << absl::StrFormat("gva 0x%x", leaf.gva + offset);
      } else {
        ASSERT_EQ(seen, (Seen{Seen::What::kMmio, leaf.gpa + offset}));
      }
    }
  }
  // Every mapping must still be there, unchanged by those that came after it.
  for (const RecordedLeaf& leaf : leaves_) {
    for (const uint64_t offset : OffsetsIn(leaf)) {
      const auto found = machine_->shadow().impl().Look(Gva(leaf.gva + offset));
      const std::string where = absl::StrFormat("gva 0x%x entry 0x%x level %d", leaf.gva + offset,
                                                found.entry.raw(), found.level.raw());
      if (!IsMemory(leaf)) {
        ASSERT_FALSE(found.entry.is_present()) << where;
        continue;
      }
      ASSERT_EQ(found.entry.kind(found.level), EntryKind::kLeaf) << where;
      const uint64_t inside = (leaf.gva + offset) & (found.level.bytes() - 1);
      ASSERT_EQ((found.entry.address().raw() & ~(found.level.bytes() - 1)) + inside,
                machine_->HpaOf(Gpa(leaf.gpa + offset)))
          << where;
      ASSERT_EQ(found.entry.rights().user(), leaf.user) << where;
      ASSERT_EQ(found.entry.rights().executable(), leaf.execute) << where;
      ASSERT_TRUE(leaf.write || !found.entry.is_writable()) << where;
    }
  }
  const absl::Status sound = machine_->vm().CheckInvariants();
  EXPECT_TRUE(sound.ok()) << sound;
}

TEST_P(ShadowedKernel, LetsBeWrittenWhatTheKernelMayWriteAndNothingElse) {
  size_t written = 0;
  for (size_t i = 0; i < leaves_.size(); i += 7) {
    const RecordedLeaf& leaf = leaves_[i];
    const Seen seen = machine_->Access({Gva(leaf.gva), sim::AccessKind::kStore, leaf.user});
    if (!leaf.write) {
      ASSERT_EQ(seen, (Seen{Seen::What::kPageFault, leaf.user ? 7u : 3u}));
    } else if (IsMemory(leaf)) {
      ASSERT_EQ(seen, (Seen{Seen::What::kMemory, machine_->HpaOf(Gpa(leaf.gpa))}));
      ++written;
    }
  }
  EXPECT_GT(written, 100u);
  const absl::Status sound = machine_->vm().CheckInvariants();
  EXPECT_TRUE(sound.ok()) << sound;
}

INSTANTIATE_TEST_SUITE_P(All, ShadowedKernel,
                         testing::Combine(testing::Values("la48", "la57", "legacy32", "pae"),
                                          testing::Values(0, 9)),
                         [](const auto& test) {
                           return absl::StrFormat("%s_order%d", std::get<0>(test.param),
                                                  std::get<1>(test.param));
                         });

}  // namespace
}  // namespace tdp::oracles
