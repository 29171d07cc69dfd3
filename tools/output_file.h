// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where a command writes its result.

#ifndef TDP_TOOLS_OUTPUT_FILE_H_
#define TDP_TOOLS_OUTPUT_FILE_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

// A regular file appears, or is replaced, as a whole when it is committed: an interrupted run, or
// one that fails, leaves what was there, and the result may have the name of the input. What is no
// regular file (a device, a pipe) is written through, and "-" is standard output.
class OutputFile {
 public:
  // Unavailable if the system refuses, InvalidArgument for an empty path. A symbolic link stands
  // for what it leads to.
  static absl::StatusOr<std::unique_ptr<OutputFile>> Create(const std::string& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Returns the name, for messages.
  const std::string& name() const { return name_; }

  // Each is Unavailable if the system refuses, a full disk for one.
  absl::Status Write(absl::Span<const char> bytes);
  absl::Status Commit();

 private:
  OutputFile(std::string name, int fd) : name_(std::move(name)), fd_(fd) {}
  absl::Status OpenAside(const std::string& path);
  absl::Status PutInPlace();
  absl::Status Error(const char* what) const;

  const std::string name_;
  int fd_;
  std::string target_;  // of a regular file: its place; else empty
  std::string aside_;   // its name until then; empty while it has none
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_OUTPUT_FILE_H_
