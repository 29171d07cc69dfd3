// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A live migration by pre-copy: the guest runs on while its memory is sent, and what it has written
// meanwhile is sent again, until little enough is left to stop it.

#ifndef TDP_TOOLS_EXPERIMENTS_MIGRATION_H_
#define TDP_TOOLS_EXPERIMENTS_MIGRATION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tdp/tools/experiments/looping_trace.h"
#include "tdp/tools/replay/replay_options.h"

namespace tdp::tools {

// Says how the engine finds the pages that were written.
enum class Logging : uint8_t { kWriteProtection, kDirtyBits, kPml, kRing };
const char* LoggingName(Logging logging);

struct MigrationOptions {
  double accesses_per_second = 1e9;  // that the guest makes while it runs
  double bytes_per_second = 1.25e9;  // that the link takes
  double downtime_seconds = 0.3;     // the guest is stopped when the rest takes no longer
  double exit_seconds = 0.5e-6;      // of one VM exit with its handling
  uint64_t max_rounds = 30;          // with the guest running
  uint64_t warmup = 1'000'000;       // accesses before the migration begins
  uint64_t ring_entries = 4096;
};

// Says what the guest did while one round's pages were on their way.
struct MigrationRound {
  uint64_t pages = 0;  // sent
  double seconds = 0;
  uint64_t accesses = 0;  // that the guest made meanwhile
  uint64_t exits = 0;     // that it had
  uint64_t dirty = 0;     // pages that it wrote: the next round's
};

struct Migration {
  Logging logging = Logging::kWriteProtection;
  std::vector<MigrationRound> rounds;  // the last one with the guest stopped
  bool converged = false;              // before `max_rounds`
  double downtime_seconds = 0;
  uint64_t differing_pages =
      0;                     // between source and destination at the end: 0, or the log is wrong
  uint64_t guest_pages = 0;  // that the guest has at the end

  uint64_t pages() const;
  uint64_t accesses() const;
  uint64_t exits() const;
  double seconds() const;
};

// Migrates a guest under EPT that runs `trace` on one CPU. All of the guest's pages are copied for
// real, and compared at the end. InvalidArgument for options that do not go together; the errors of
// trace, machine and engine.
absl::StatusOr<Migration> Migrate(LoopingTrace& trace, const ReplayOptions& machine_options,
                                  const MigrationOptions& options, Logging logging);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_EXPERIMENTS_MIGRATION_H_
