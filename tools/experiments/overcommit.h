// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest with less host memory than it uses: the host keeps the rest of its pages elsewhere.

#ifndef TDP_TOOLS_EXPERIMENTS_OVERCOMMIT_H_
#define TDP_TOOLS_EXPERIMENTS_OVERCOMMIT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/tools/experiments/guest_run.h"
#include "tdp/tools/experiments/looping_trace.h"
#include "tdp/tools/replay/replay_options.h"

namespace tdp::tools {

// Says which page goes when another one comes.
enum class Reclaim : uint8_t {
  kFifo,   // the one that has been there the longest
  kClock,  // the same, but one whose A bit is set gets another round
  kRandom,
  kBalloon,  // the guest says, and keeps the page itself: `RunBallooned`
};
const char* ReclaimName(Reclaim reclaim);

struct OvercommitOptions {
  ByteCount resident = MiB(64);  // host memory for the guest; at least kLeastResident
  Reclaim reclaim = Reclaim::kClock;
  uint64_t accesses = 10'000'000;
  uint64_t seed = 1;
  // Time.
  double accesses_per_second = 1e9;
  double exit_seconds = 0.5e-6;
  double swap_in_seconds = 100e-6;
};
// Below that the tables and pages of one access need not be there at the same time.
inline constexpr ByteCount kLeastResident = KiB(512);

struct Overcommit {
  Reclaim reclaim = Reclaim::kClock;
  ByteCount resident = 0;
  uint64_t guest_pages = 0;  // that the guest has touched
  uint64_t swap_ins = 0;
  uint64_t swap_outs = 0;
  uint64_t second_chances = 0;  // of kClock
  uint64_t exits = 0;
  uint64_t differing_pages = 0;  // at the end, from a guest that had all memory; 0 unless checked
  double seconds = 0;
};

// Both kinds of experiments share these: InvalidArgument for options that do not go together; a
// guest whose stores leave something; the time of what was counted.
absl::Status CheckOvercommit(const ReplayOptions& machine, const OvercommitOptions& options);
absl::StatusOr<std::unique_ptr<GuestRun>> StartWritingGuest(LoopingTrace& trace,
                                                            const ReplayOptions& machine);
double SecondsOf(const Overcommit& run, const OvercommitOptions& options);

// Runs a guest under EPT with 4 KiB leaves on one CPU. Its stores change its memory, and pages are
// moved for real. Unless `check` is kOff the same guest runs without a limit too, and all pages, or
// a sample of them, are compared.
// InvalidArgument for options that do not go together; the errors of trace, machine and engine.
absl::StatusOr<Overcommit> RunOvercommitted(const std::string& trace, const TraceInput& input,
                                            const ReplayOptions& machine,
                                            const OvercommitOptions& options, ColdCheckMode check);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_EXPERIMENTS_OVERCOMMIT_H_
