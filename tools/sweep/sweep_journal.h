// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The files of a sweep while it runs: each cell is in them as soon as it is done, so that a sweep
// that was interrupted, or whose disk was full, can go on where it stopped.

#ifndef TDP_TOOLS_SWEEP_SWEEP_JOURNAL_H_
#define TDP_TOOLS_SWEEP_SWEEP_JOURNAL_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/tools/sweep/sweep_table.h"

namespace tdp::tools {

class SweepJournal {
 public:
  // Files for CSV and JSON; with neither, CSV goes to standard output. With `resume` what whole
  // cells the files have stays in them; else they are begun anew. Either way a file is as it was
  // until the first cell is added. Unavailable if the system refuses; InvalidArgument if a file
  // that is to be resumed is none of this sweep, or of traces that have been changed since.
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
  struct Closer {
    void operator()(std::FILE* file) const {
      if (file != stdout) std::fclose(file);
    }
  };
  // One of the two files: a heading, a line for each cell, and what ends it.
  struct File {
    std::string path;  // empty: there is none
    std::string heading;
    std::string ending;
    std::map<uint64_t, std::string> lines;  // by cell
    bool begun = false;                     // the heading has been written
    bool any = false;                       // a line has been written
    uint64_t last = 0;                      // cell of the line that was written last
    bool ordered = true;                    // so far
    // Standard output, a pipe or a device, open until the end; null for a regular file. It cannot
    // be put in order afterwards: a cell waits there for those before it.
    std::unique_ptr<std::FILE, Closer> stream;
    size_t next = 0;  // of `expected_`, on a stream
  };

  explicit SweepJournal(uint64_t all_cells) : all_cells_(all_cells) {}
  absl::Status Open(File& file) const;
  absl::Status Resume(const std::vector<SweepCell>& cells);
  absl::Status ResumeFile(File& file, const std::vector<SweepCell>& cells) const;
  absl::Status ResumeLine(File& file, const std::vector<SweepCell>& cells, std::string_view line,
                          size_t number) const;
  absl::Status Begin(File& file);
  // Returns what is written for `line` after the lines before it.
  static std::string TextOf(const File& file, std::string_view line);
  absl::Status Add(File& file, uint64_t cell);
  absl::Status Append(File& file, uint64_t cell, std::string line);
  absl::Status End(File& file);

  uint64_t all_cells_;
  File csv_;
  File json_;
  std::set<uint64_t> done_;
  std::vector<uint64_t> expected_;  // cells that are to come, in their order
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_SWEEP_SWEEP_JOURNAL_H_
