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

// Maps eight pages and takes them away. Returns what `tdpj_replay` does, and what it prints.
int Replay(Way way, const Mistakes& mistakes, std::string& printed) {
  g_way = way;
  g_mistakes = mistakes;
  const tdpj_subject subject = Subject();
  const auto step = [](int kind) {
    return tdpj_step{.kind = kind,
                     .gpa = 0x10000,
                     .hpa = kind == TDPJ_STEP_MAP ? uint64_t{0x300000} : 0,
                     .size = 8 * kPage,
                     .rights = 7,
                     .memory_type = 6,
                     .fail_at = 0,
                     .seed = 1};
  };
  const std::vector<tdpj_step> steps = {step(TDPJ_STEP_MAP), step(TDPJ_STEP_UNMAP)};
  testing::internal::CaptureStderr();
  const int result = tdpj_replay(&subject, steps.data(), steps.size());
  printed = testing::internal::GetCapturedStderr();
  return result;
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
