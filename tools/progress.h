// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A progress line for long work, on a terminal only.

#ifndef TDP_TOOLS_PROGRESS_H_
#define TDP_TOOLS_PROGRESS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "tdp/tools/trace/byte_source.h"

namespace tdp::tools {

// Writes to standard error if that is a terminal, else nothing. The line is erased in the
// destructor, so that what follows stands alone.
class Progress {
 public:
  Progress() : Progress(true) {}
  // `shown`: false says nothing ever.
  explicit Progress(bool shown);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Lets the line begin with `prefix` from now on, and shows it at once: it says which piece of a
  // longer work this is.
  void SetPrefix(std::string prefix);

  // Shows the work done so far, a few times a second at most and only after the first half second.
  void Update(uint64_t accesses, const ByteSource& source);
  // Does the same for the pages of the check at the end.
  void UpdateCheck(uint64_t pages, uint64_t all);

 private:
  const bool enabled_;
  const absl::Time start_;
  absl::Time next_;
  std::string prefix_;
  bool shown_ = false;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_PROGRESS_H_
