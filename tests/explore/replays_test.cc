// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Under each of these schedules an order of the engine was found to be missing, which its comment
// names. The steps of a schedule shift as the code changes, so each scenario runs under some more
// schedules, the same each time.

#include <string>

#include "gtest/gtest.h"
#include "tests/explore/campaign.h"
#include "tests/explore/scenario.h"

namespace tdp::explore {
namespace {

void ExpectHolds(const Finding& finding) {
  constexpr uint64_t kRuns = 500;
  EXPECT_EQ(Replay(finding), "");
  const CampaignResult around = Explore({ScenarioOf(finding.scenario)}, {.most_runs = kRuns});
  for (const Finding& found : around.findings) ADD_FAILURE() << found.what << "\n" << found.ToCpp();
}

// A take did not wait for a fault that had made a page writable and had yet to mark it; another CPU
// had written it by then.
TEST(ExploreReplay, ATakeShowsWhatAnotherCpuWroteThroughAFaultUnderWay) {
  ExpectHolds({.scenario = "wp/take+stats",
               .seed = 13200,
               .weak_memory = true,
               .schedule = {.turns = {{36, 1}, {88, 0}, {177, 2}}}});
}

// A take with PML missed that write, too: the CPU logs what it writes, but not what the fault has
// given D.
TEST(ExploreReplay, APmlTakeShowsWhatAnotherCpuWroteThroughAFaultUnderWay) {
  ExpectHolds({.scenario = "pml/take+translate",
               .seed = 11543,
               .weak_memory = true,
               .schedule = {.turns = {{3, 3}, {18, 1}, {45, 0}, {82, 1}, {117, 2}, {133, 1}}}});
}

// A generation counted as settled before the wait for it was over.
TEST(ExploreReplay, AFlushIsSettledForOthersOnlyAfterItsWait) {
  ExpectHolds({.scenario = "wp/zap+zap_all",
               .seed = 0,
               .weak_memory = false,
               .schedule = {.turns = {{1, 1}, {107, 3}, {141, 2}}}});
}

// The generation moved before the entries were taken out.
TEST(ExploreReplay, ACpuThatEntersBesideAZapUsesNothingOfIt) {
  ExpectHolds({.scenario = "wp/zap+log_and_move",
               .seed = 1,
               .weak_memory = false,
               .schedule = {.turns = {{1, 3}, {291, 1}}}});
}

// The push loaded the entry again and split a link that a fault had put there.
TEST(ExploreReplay, APushBesideAFaultSplitsWhatItHasSeen) {
  ExpectHolds({.scenario = "wp/delete_and_show+push_down",
               .seed = 6,
               .weak_memory = false,
               .schedule = {.turns = {{1, 3}, {28, 2}, {31, 1}}}});
}

// A fault looked for the slot before it read the sequence.
TEST(ExploreReplay, AFaultBesideADeletionInstallsNothingOfTheSlot) {
  ExpectHolds({.scenario = "wp/delete_and_show+zap_all+make_in_hole",
               .seed = 2,
               .weak_memory = true,
               .schedule = {.turns = {{1, 1}, {125, 3}, {127, 2}, {1698, 0}, {2075, 1}},
                            .old_reads = {{2240, 1}}}});
}

// A fault did not look whether the memory had changed since the host was asked.
TEST(ExploreReplay, AFaultBesideAnInvalidationInstallsNoOldPage) {
  ExpectHolds({.scenario = "wp/zap+invalidate",
               .seed = 2,
               .weak_memory = false,
               .schedule = {.turns = {{1, 2}, {44, 1}, {138, 3}}}});
}

// Two faults pushed the protection down from one entry.
TEST(ExploreReplay, TwoFaultsBelowAProtectedEntryLoseNoWrite) {
  ExpectHolds({.scenario = "dbits/log_on+vcpu",
               .seed = 4,
               .weak_memory = true,
               .schedule = {.turns = {{1, 2}, {112, 1}, {720, 3}, {788, 0}}}});
}

// A harvest of D bits did not go again where the one before had cleared A.
TEST(ExploreReplay, AHarvestFindsWhatCpusWroteThroughCachedUpperEntries) {
  ExpectHolds({.scenario = "dbits/take+quota",
               .seed = 6,
               .weak_memory = true,
               .schedule = {.turns = {{547, 3}, {1065, 1}, {2036, 0}}}});
}

// A take did not wait for the thread that was reading the D bits of detached tables.
TEST(ExploreReplay, ATakeBesideAZapShowsTheDBitsOfItsTables) {
  ExpectHolds({.scenario = "dbits/zap_all+take",
               .seed = 3,
               .weak_memory = false,
               .schedule = {.turns = {{428, 3}}}});
}

// `Stats` waited for a mutex that is held while others wait for the vCPU of its thread.
TEST(ExploreReplay, StatsInAGuestEntryWaitsForNobodyThatWaitsForIt) {
  ExpectHolds({.scenario = "wp/zap+delete",
               .seed = 1,
               .weak_memory = false,
               .schedule = {.turns = {{106, 3}}}});
}

// A fault looked whether its page was in the log by an order that let it be before the entry that
// made the page writable; the entry of a page that was taken out was loaded by no stronger one.
TEST(ExploreReplay, AFaultIsSeenByWhoeverTakesItsPageOutOfTheLog) {
  ExpectHolds({.scenario = "manual/zap_all+get_and_clear",
               .seed = 221,
               .weak_memory = true,
               .schedule = {.turns = {{27, 2}, {92, 1}, {210, 2}, {252, 1}, {330, 3}},
                            .old_reads = {{366, 1}}}});
}

// A fault gave W back, as the log ended, to an entry from which another was pushing the protection
// down. Its vCPU noted a way as writable that then lost W: each later write there was spurious.
TEST(ExploreReplay, NoFaultLiftsAProtectionThatAnotherPushesDown) {
  ExpectHolds({.scenario = "gib.small/log_off+write_elsewhere",
               .seed = 26,
               .weak_memory = false,
               .schedule = {.turns = {{1, 2}, {103, 1}, {199, 0}}}});
}

}  // namespace
}  // namespace tdp::explore
