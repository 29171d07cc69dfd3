// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Shows what the judge sees of a subject of a few lines: four tables that map single pages of the
// first 2 MiB. Its stores are told by the calls that compilers make, or by hand.

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tdp/judge/contract.h"
#include "tdp/judge/explore_contract.h"
#include "tdp/judge/session.h"
#include "tdp/judge/tdp_judge.h"

#if !defined(__SANITIZE_THREAD__)
extern "C" void* __tsan_memset(void* to, int value, size_t size);
extern "C" void __tsan_write16(void* p);
#endif

namespace tdp::judge {
namespace {

enum class Way { kOneByOne, kMemset, kMemsetByHand, kPairs };
struct Mistakes {
  bool frees_linked = false;
  bool frees_unflushed = false;
  unsigned vpid = 0;          // INVVPID besides INVEPT; 0: none
  bool refuses_over = false;  // a map over a mapping
};

constexpr uint64_t kTable = 7;
constexpr uint64_t kLeafBits = 6 << 3;
constexpr uint64_t kBit10 = 1 << 10;
constexpr uint64_t kDirty = 1 << 9;
constexpr uint64_t kFlagsOn = 1 << 6;  // of an EPTP
constexpr size_t kEntries = 512;

Way g_way;
Mistakes g_mistakes;
uint64_t* g_tables;  // four in a row: the root first, the table of leaves last
uint64_t* g_block;   // two: the second stands in for the table of leaves

uint64_t* LeafTable() { return g_tables + 3 * kEntries; }
uint64_t Root() { return tdpj_phys(g_tables) | 3 << 3 | 6; }

int Create() {
  g_tables = static_cast<uint64_t*>(tdpj_alloc_frames(4));
  g_block = nullptr;
  std::memset(g_tables, 0, 4 * kPage);
  for (size_t i = 0; i < 3; ++i) {
    g_tables[i * kEntries] = tdpj_phys(g_tables + (i + 1) * kEntries) | kTable;
  }
  return 0;
}

void Destroy() { tdpj_free(g_tables); }

void Set(uint64_t* entry, uint64_t value) {
  tdpj_store(entry);
  *entry = value;
}

int Map(uint64_t gpa, uint64_t hpa, uint64_t size, unsigned rights, unsigned) {
  for (uint64_t at = 0; at < size; at += kPage) {
    if (g_mistakes.refuses_over && LeafTable()[(gpa + at) / kPage] != 0) return -1;
  }
  for (uint64_t at = 0; at < size; at += kPage) {
    Set(&LeafTable()[(gpa + at) / kPage], (hpa + at) | rights | kLeafBits);
  }
  return 0;
}

void Clear(uint64_t* entries, size_t count) {
  const size_t bytes = count * sizeof *entries;
  switch (g_way) {
    case Way::kOneByOne:
      for (size_t i = 0; i < count; ++i) Set(&entries[i], 0);
      return;
    case Way::kMemset:
#if !defined(__SANITIZE_THREAD__)
      __tsan_memset(entries, 0, bytes);
#endif
      return;
    case Way::kMemsetByHand:
      tdpj_store(entries);
      std::memset(entries, 0, bytes);
      return;
    case Way::kPairs:
      for (size_t i = 0; i < count; i += 2) {
#if !defined(__SANITIZE_THREAD__)
        __tsan_write16(&entries[i]);
#endif
        entries[i] = entries[i + 1] = 0;
      }
      return;
  }
}

// Makes the second frame of a block the table of leaves for a moment, and gives the block back too
// early.
void UseABlock() {
  g_block = static_cast<uint64_t*>(tdpj_alloc_frames(2));
  std::memset(g_block, 0, kPage);
  uint64_t* const table = g_block + kEntries;
  std::memcpy(table, LeafTable(), kPage);
  uint64_t* const link = &g_tables[2 * kEntries];
  const uint64_t old = *link;
  Set(link, tdpj_phys(table) | kTable);
  if (g_mistakes.frees_linked) tdpj_free(g_block);
  Set(link, old);
  if (g_mistakes.frees_unflushed) tdpj_free(g_block);
}

int Unmap(uint64_t gpa, uint64_t size) {
  if (g_mistakes.frees_linked || g_mistakes.frees_unflushed) UseABlock();
  Clear(&LeafTable()[gpa / kPage], size / kPage);
  tdpj_invept(1, Root());
  if (g_mistakes.vpid != 0) tdpj_invvpid(1, g_mistakes.vpid, 0);
  return 0;
}

tdpj_subject Subject() {
  tdpj_subject subject = {};
  subject.name = "four tables";
  subject.contract.claims = TDPJ_INSTRUMENTED | TDPJ_FREES_ALL | TDPJ_NO_FAILURE;
  subject.contract.max_order = 9;
  subject.contract.rights_count = 1;
  subject.contract.rights[0] = TDPJ_R | TDPJ_W | TDPJ_X;
  subject.contract.gpa_limit = kPage2M;
  subject.contract.hpa_limit = uint64_t{1} << 40;
  subject.create = Create;
  subject.destroy = Destroy;
  subject.eptp = Root;
  subject.map = Map;
  subject.unmap = Unmap;
  return subject;
}

// Returns a step about eight pages, or of a touch the first of them.
tdpj_step Step(int kind) {
  return {.kind = kind,
          .gpa = 0x10000,
          .hpa = kind == TDPJ_STEP_MAP ? uint64_t{0x300000} : 0,
          .size = kind == TDPJ_STEP_TOUCH ? kPage : 8 * kPage,
          .rights = kind == TDPJ_STEP_TOUCH ? unsigned{TDPJ_W} : 7,
          .memory_type = 6,
          .fail_at = 0,
          .seed = 1};
}

// Returns what `tdpj_replay` does of steps of these kinds, and what it prints.
int Replay(const tdpj_subject& subject, const std::vector<int>& kinds, std::string& printed) {
  std::vector<tdpj_step> steps;
  for (const int kind : kinds) steps.push_back(Step(kind));
  testing::internal::CaptureStderr();
  const int result = tdpj_replay(&subject, steps.data(), steps.size());
  printed = testing::internal::GetCapturedStderr();
  return result;
}

// Maps eight pages and takes them away.
int Replay(Way way, const Mistakes& mistakes, std::string& printed) {
  g_way = way;
  g_mistakes = mistakes;
  return Replay(Subject(), {TDPJ_STEP_MAP, TDPJ_STEP_UNMAP}, printed);
}

TEST(Session, SeesEveryWordOfAStoreThatIsTold) {
  std::vector<Way> ways = {Way::kOneByOne, Way::kMemsetByHand};
#if !defined(__SANITIZE_THREAD__)
  ways.insert(ways.end(), {Way::kMemset, Way::kPairs});
#endif
  for (const Way way : ways) {
    std::string printed;
    EXPECT_EQ(Replay(way, {}, printed), 0) << static_cast<int>(way) << ": " << printed;
  }
}

TEST(Session, LooksAtEveryFrameOfABlockThatIsFreed) {
  std::string printed;
  EXPECT_EQ(Replay(Way::kOneByOne, {.frees_linked = true}, printed), 1);
  EXPECT_NE(printed.find("freed-linked.unmap"), std::string::npos) << printed;
  EXPECT_EQ(Replay(Way::kOneByOne, {.frees_unflushed = true}, printed), 1);
  EXPECT_NE(printed.find("freed-unflushed.unmap"), std::string::npos) << printed;
}

TEST(Session, SaysWhichStepsTheContractDoesNotLetItRun) {
  g_way = Way::kOneByOne;
  g_mistakes = {};
  const tdpj_subject subject = Subject();
  std::string printed;
  EXPECT_EQ(Replay(subject, {TDPJ_STEP_MAP, TDPJ_STEP_UNMAP}, printed), 0);
  EXPECT_EQ(printed, "");
  const std::vector<int> kinds = {TDPJ_STEP_MAP, TDPJ_STEP_PROTECT, TDPJ_STEP_UNMAP,
                                  TDPJ_STEP_UNMAP};
  EXPECT_EQ(Replay(subject, kinds, printed), 0);
  EXPECT_EQ(printed,
            "four tables: 2 of 4 steps were not run, the first of them step 2, a protect: protect "
            "is null\n");
}

// A harvest by D bits, of which every other one fails when it has seen to the page in the middle.
int Harvest(uint64_t gpa, uint64_t size, void (*page)(uint64_t)) {
  static bool fails = false;
  fails = !fails;
  std::vector<uint64_t> found;
  for (uint64_t at = fails ? size / 2 : 0; at < size; at += kPage) {
    uint64_t* const entry = &LeafTable()[(gpa + at) / kPage];
    if ((*entry & kDirty) != 0) found.push_back(gpa + at);
    Set(entry, *entry & ~kDirty);
    if (fails) break;
  }
  tdpj_invept(1, Root());
  for (const uint64_t at : found) page(at);
  return fails ? TDPJ_NO_MEMORY : 0;
}

TEST(Session, AsksForNoPageAgainThatAFailedHarvestHasReported) {
  g_way = Way::kOneByOne;
  g_mistakes = {};
  tdpj_subject subject = Subject();
  subject.eptp = [] { return Root() | kFlagsOn; };
  subject.dirty_start = [](uint64_t, uint64_t) { return 0; };
  subject.dirty_harvest = Harvest;
  for (uint64_t seed = 1; seed < 20; ++seed) {
    std::vector<tdpj_step> steps;
    for (const int kind : {TDPJ_STEP_MAP, TDPJ_STEP_DIRTY_START, TDPJ_STEP_TOUCH, TDPJ_STEP_HARVEST,
                           TDPJ_STEP_HARVEST}) {
      steps.push_back(Step(kind));
      steps.back().seed = seed;
      if (kind == TDPJ_STEP_TOUCH) steps.back().gpa += 4 * kPage;
    }
    EXPECT_EQ(tdpj_replay(&subject, steps.data(), steps.size()), 0) << seed;
  }
}

TEST(Session, AFaultMayFindThePoolOfTheSubjectUsedUp) {
  g_way = Way::kOneByOne;
  g_mistakes = {};
  tdpj_subject subject = Subject();
  subject.contract.claims |= TDPJ_DEMAND;
  subject.map = [](uint64_t, uint64_t, uint64_t, unsigned, unsigned) { return 0; };
  subject.fault = [](uint64_t, uint64_t) { return static_cast<int>(TDPJ_NO_MEMORY); };
  std::string printed;
  EXPECT_EQ(Replay(subject, {TDPJ_STEP_MAP, TDPJ_STEP_TOUCH}, printed), 0) << printed;
  subject.fault = [](uint64_t, uint64_t) { return 0; };
  EXPECT_EQ(Replay(subject, {TDPJ_STEP_MAP, TDPJ_STEP_TOUCH}, printed), 1);
  EXPECT_NE(printed.find("fault-not-fixed.touch"), std::string::npos) << printed;
}

// Without MBEC, which the judge's CPU does not use, bit 10 is software's.
TEST(Session, BitsThatTheCpuIgnoresOweNoFlush) {
  g_way = Way::kOneByOne;
  g_mistakes = {};
  tdpj_subject subject = Subject();
  subject.create = [] {
    const int answer = Create();
    for (size_t i = 0; i < 3; ++i) g_tables[i * kEntries] |= kBit10;
    return answer;
  };
  subject.map = [](uint64_t gpa, uint64_t hpa, uint64_t size, unsigned rights, unsigned type) {
    return Map(gpa, hpa | kBit10, size, rights, type);
  };
  subject.split = [](uint64_t gpa, uint64_t) {
    Set(&LeafTable()[gpa / kPage], LeafTable()[gpa / kPage] & ~kBit10);
    return 0;
  };
  std::string printed;
  EXPECT_EQ(Replay(subject, {TDPJ_STEP_MAP, TDPJ_STEP_TOUCH, TDPJ_STEP_SPLIT}, printed), 0)
      << printed;
}

TEST(Session, InvvpidOfMoreThan16BitsFails) {
  std::string printed;
  EXPECT_EQ(Replay(Way::kOneByOne, {.vpid = 1}, printed), 0) << printed;
  EXPECT_EQ(Replay(Way::kOneByOne, {.vpid = 0x10001}, printed), 1);
  EXPECT_NE(printed.find("bad-invvpid.unmap"), std::string::npos) << printed;
}

// Whatever else the contract confines maps to.
TEST(ExploreContract, AsksWhatTheRestOfTheContractLetsItAsk) {
  struct Confined {
    const char* by;
    void (*confine)(tdpj_contract& contract);
  };
  for (const Confined& confined :
       {Confined{"nothing", [](tdpj_contract&) {}},
        Confined{"identity_map", [](tdpj_contract& c) { c.identity_map = 1; }},
        Confined{"min_order", [](tdpj_contract& c) { c.min_order = 3; }},
        Confined{"hpa_limit", [](tdpj_contract& c) { c.hpa_limit = kPage2M; }}}) {
    g_way = Way::kOneByOne;
    g_mistakes = {.refuses_over = true};
    tdpj_subject subject = Subject();
    confined.confine(subject.contract);
    testing::internal::CaptureStdout();
    ExploreContract(subject, StoreView::kHooks);
    const std::string printed = testing::internal::GetCapturedStdout();
    EXPECT_NE(printed.find("TDPJ_OVER_REPLACES    refused"), std::string::npos)
        << confined.by << ": " << printed;
    EXPECT_NE(printed.find("unmap_hole = 1                   works"), std::string::npos)
        << confined.by << ": " << printed;
  }
}

TEST(ExploreContract, SaysNothingOfWhatItCannotAsk) {
  g_way = Way::kOneByOne;
  g_mistakes = {.refuses_over = true};
  tdpj_subject subject = Subject();
  subject.contract.hpa_limit = kPage;
  testing::internal::CaptureStdout();
  ExploreContract(subject, StoreView::kHooks);
  const std::string printed = testing::internal::GetCapturedStdout();
  EXPECT_EQ(printed.find("works"), std::string::npos) << printed;
  EXPECT_NE(printed.find("not asked"), std::string::npos) << printed;
}

}  // namespace
}  // namespace tdp::judge

// The binary's subject, which no test here runs.
const tdpj_subject* tdpj_get_subject(void) { return nullptr; }
