// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The files of a sweep while it runs: each cell is in them as soon as it is done, so that a sweep
// that was interrupted, or whose disk was full, can go on where it stopped.

#ifndef TDP_TOOLS_SWEEP_SWEEP_JOURNAL_H_
#define TDP_TOOLS_SWEEP_SWEEP_JOURNAL_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/tools/sweep/sweep_table.h"

namespace tdp::tools {

class SweepJournal {
 public:
  // Files for CSV and JSON; with neither, CSV goes to standard output. With `resume` what whole
  // cells the files have stays in them; else they are begun anew. Unavailable if the system
  // refuses; InvalidArgument if a file that is to be resumed is of another sweep.
  static absl::StatusOr<SweepJournal> Create(const std::string& csv, const std::string& json,
                                             const std::vector<SweepCell>& cells, bool resume);

  // Returns whether the cell is in every file from before.
  bool Has(uint64_t cell) const { return done_.contains(cell); }

  // The cells that will be added, in their order; on standard output they come in it.
  void Expect(std::vector<uint64_t> cells);
  // Adds a cell. Thread-compatible. Unavailable if the system refuses, a full disk for one.
  absl::Status Append(const SweepResult& result);

  // Ends the files, with the cells in their order.
  absl::Status Finish();

  // Returns the CSV of all cells that it has: those from before, if there was a file for CSV, and
  // those of now.
  std::string Csv() const;

 private:
  // One of the two files: a heading, a line for each cell, and what ends it.
  struct File {
    std::string path;  // empty: there is none
    std::string heading;
    std::string ending;
    std::map<uint64_t, std::string> lines;  // by cell
    bool any = false;                       // a line has been written
    uint64_t last = 0;                      // cell of the line that was written last
    bool ordered = true;                    // so far
  };

  explicit SweepJournal(uint64_t all_cells) : all_cells_(all_cells) {}
  absl::Status Resume(const std::vector<SweepCell>& cells);
  absl::Status Begin(File& file);
  absl::Status Add(File& file, uint64_t cell, const std::string& line);
  absl::Status AddPending();
  absl::Status Append(File& file, uint64_t cell, const std::string& line);

  uint64_t all_cells_;
  File csv_;
  File json_;
  std::set<uint64_t> done_;
  // Standard output cannot be put in order afterwards: a cell waits for those before it.
  std::vector<uint64_t> expected_;  // cells that are to come
  std::map<uint64_t, std::string> pending_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_SWEEP_SWEEP_JOURNAL_H_
