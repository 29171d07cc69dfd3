// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests compare the engine's walkers with the software CPU, which was written without looking
// at them: random tables in which every bit is likely, in every paging mode, with and without EPT.

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "tests/oracles/engine_walk_protocol.h"
#include "tests/oracles/walk_protocol.h"

namespace tdp::oracles {
namespace {

struct Mode {
  const char* name;
  uint64_t cr4;
  uint64_t efer;
  int linear_bits;
  bool keys;  // protection keys exist
};

constexpr Mode kModes[] = {
    {"32bit", 0, 0, 32, false},
    {"pae", guest::kCr4PhysicalAddressExtension, 0, 32, false},
    {"4level", guest::kCr4PhysicalAddressExtension, 0x500, 48, true},
    {"5level", guest::kCr4PhysicalAddressExtension | guest::kCr4FiveLevels, 0x500, 57, true},
};

class WalkersAgree : public testing::TestWithParam<Mode> {
 protected:
  // The guest's tables are in the frames from 0 on, and the EPT's far from anything that it maps:
  // one a level, so that every walk comes to the last.
  static constexpr uint64_t kGuestTables = 12;
  static constexpr uint64_t kEptRoot = 0x200000;
  static constexpr int kEptLevels = 4;

  bool Chance(int percent) { return static_cast<int>(random_() % 100) < percent; }
  uint64_t Sometimes(uint64_t bit, int percent) { return Chance(percent) ? bit : 0; }

  void Tell(const std::string& line) {
    ASSERT_TRUE(engine_.Answer(line).ok()) << line;
    ASSERT_TRUE(sim_.Answer(line).ok()) << line;
  }

  // Compares the answers; returns how they begin.
  std::string Ask(const std::string& line) {
    const auto engine = engine_.Answer(line);
    const auto sim = sim_.Answer(line);
    EXPECT_TRUE(engine.ok() && sim.ok()) << line;
    // Which A and D bits a walk sets before it faults is not architectural.
    const bool ok = absl::StartsWith(*sim, "ok");
    const auto shown = [ok](const std::string& answer) {
      return ok ? answer : answer.substr(0, answer.find(" ad "));
    };
    EXPECT_EQ(shown(*engine), shown(*sim)) << line;
    return sim->substr(0, sim->find(' '));
  }

  uint64_t GuestEntry() {
    if (Chance(10)) return random_() & ~guest::kPresent;
    uint64_t entry = (random_() % kGuestTables) << kPageShift | Sometimes(guest::kPresent, 97) |
                     Sometimes(guest::kWrite, 80) | Sometimes(guest::kUser, 80) |
                     Sometimes(guest::kAccessed, 50) | Sometimes(guest::kDirty, 50) |
                     Sometimes(guest::kNoExecute, 15) | Sometimes(guest::kGlobal, 20);
    if (Chance(15)) entry |= guest::kLargePage;
    if (Chance(5)) entry &= ~uint64_t{0x1ff000};  // an aligned large page
    if (Chance(60)) entry |= (random_() & 15) << guest::kProtectionKeyShift;
    if (Chance(3)) entry |= uint64_t{1} << random_() % 64;
    return entry;
  }

  uint64_t EptFlags() {
    uint64_t flags = Sometimes(ept::kRead, 99) | Sometimes(ept::kWrite, 95) |
                     Sometimes(ept::kExecute, 95) | Sometimes(ept::kAccessed, 50) |
                     Sometimes(ept::kDirty, 50);
    if (Chance(2)) flags |= uint64_t{1} << random_() % 12;
    return flags;
  }

  // Maps the first 48 frames one to one, mostly.
  void WriteEpt() {
    for (uint64_t level = kEptLevels; level >= 1; --level) {
      const uint64_t table = (kEptRoot + kEptLevels - level) << kPageShift;
      if (level > 1) {
        Tell(absl::StrFormat("mem %x %x", table, (table + kPageSize) | ept::kRightsMask));
        continue;
      }
      for (uint64_t i = 0; i < 48; ++i) {
        const uint64_t type = Sometimes(uint64_t{6} << ept::kMemoryTypeShift, 98);
        Tell(absl::StrFormat("mem %x %x", table + i * 8, i << kPageShift | EptFlags() | type));
      }
    }
  }

  void WriteGuestTables() {
    for (uint64_t table = 0; table < kGuestTables; ++table) {
      for (int i = 0; i < 48; ++i) {
        const uint64_t at = table << kPageShift | (random_() % 24 * 8);
        uint64_t entry = GuestEntry();
        if (GetParam().linear_bits == 32 && GetParam().cr4 == 0) {
          entry = (entry & 0xffffffff) | GuestEntry() << 32;
        }
        Tell(absl::StrFormat("mem %x %x", at, entry));
      }
    }
  }

  void SetRegisters(bool with_ept) {
    const Mode& mode = GetParam();
    using namespace guest;
    const uint64_t cr4 =
        mode.cr4 | Sometimes(kCr4PageSizeExtensions, 70) | Sometimes(kCr4Smep, 40) |
        Sometimes(kCr4Smap, 40) |
        (mode.keys ? Sometimes(kCr4UserKeys, 40) | Sometimes(kCr4SupervisorKeys, 40) : 0);
    Tell(absl::StrCat("ept ", with_ept ? 1 : 0));
    Tell(absl::StrCat("cap1g ", Chance(70) ? 1 : 0));
    Tell(absl::StrFormat("eptp %x",
                         kEptRoot << kPageShift | 0x1e | Sometimes(ept::kEptpAccessedDirty, 50)));
    Tell(absl::StrFormat("cr0 %x", 0x80000033 | Sometimes(kCr0WriteProtect, 60)));
    Tell(absl::StrFormat("efer %x", mode.efer | Sometimes(kEferNoExecute, 70)));
    Tell(absl::StrFormat("cr4 %x", cr4));
    Tell(absl::StrFormat("cr3 %x", random_() % kGuestTables << kPageShift));
    Tell(absl::StrFormat("pkru %x", random_() & 0xffffffff));
    Tell(absl::StrFormat("pkrs %x", random_() & 0xffffffff));
    Tell(absl::StrCat("ac ", Chance(50) ? 1 : 0));
    Tell(absl::StrCat("maxpa ", Chance(50) ? 36 : 52));
  }

  void WritePdptes() {
    Tell("cr3 b000");
    for (uint64_t i = 0; i < 4; ++i) {
      const uint64_t table = random_() % (kGuestTables - 1) << kPageShift;
      Tell(absl::StrFormat("mem %x %x", 0xb000 + i * 8, table | Sometimes(guest::kPresent, 90)));
    }
  }

  uint64_t RandomGva() {
    uint64_t gva = random_() & kPageOffsetMask;
    // Entries are only at the first indexes of each table.
    const int bits = GetParam().linear_bits == 32 && GetParam().cr4 == 0 ? 10 : 9;
    for (int shift = kPageShift; shift < GetParam().linear_bits; shift += bits) {
      gva |= random_() % (bits == 10 ? 48 : 24) << shift;
    }
    gva &= (uint64_t{1} << GetParam().linear_bits) - 1;
    if (GetParam().linear_bits > 32 && Chance(2)) gva |= uint64_t{1} << 60;
    return gva;
  }

  std::mt19937_64 random_{1};
  EngineWalkProtocol engine_;
  WalkProtocol sim_;
};

TEST_P(WalkersAgree, OnRandomTables) {
  std::map<std::string, int> answers;
  for (int round = 0; round < 100; ++round) {
    Tell("reset");
    const bool with_ept = round % 2 == 1;
    ASSERT_NO_FATAL_FAILURE(WriteGuestTables());
    if (with_ept) {
      ASSERT_NO_FATAL_FAILURE(WriteEpt());
    }
    ASSERT_NO_FATAL_FAILURE(SetRegisters(with_ept));
    if (std::string(GetParam().name) == "pae") {
      if (Chance(95)) WritePdptes();
      if (Ask("loadpdptr") != "ok") continue;
    }
    for (int i = 0; i < 400; ++i) {
      const char kind = "rwx"[random_() % 3];
      ++answers[Ask(absl::StrFormat("lin %x %c %d", RandomGva(), kind, Chance(50) ? 1 : 0))];
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(answers["ok"], 500);
  EXPECT_GT(answers["pf"], 500);
  EXPECT_GT(answers["violation"], 100);
}

INSTANTIATE_TEST_SUITE_P(Modes, WalkersAgree, testing::ValuesIn(kModes),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace tdp::oracles
