// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Writes physical addresses, for simulators of memory.

#ifndef TDP_TOOLS_TRACE_PHYSICAL_TRACE_H_
#define TDP_TOOLS_TRACE_PHYSICAL_TRACE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/tools/output_file.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Ramulator's form: "0x12345680 R" a line; a modify is a read and a write. Not thread-safe.
class PhysicalTrace {
 public:
  // `path` as `OutputFile::Create` takes it. Unavailable if the system refuses.
  static absl::StatusOr<std::unique_ptr<PhysicalTrace>> Create(const std::string& path);

  // An error shows at `Close`.
  void Add(Hpa hpa, AccessKind kind);
  // Puts the file in its place. A trace that is destroyed before leaves nothing behind.
  absl::Status Close();

 private:
  explicit PhysicalTrace(std::unique_ptr<OutputFile> file) : file_(std::move(file)) {}
  void Flush();

  const std::unique_ptr<OutputFile> file_;
  std::string buffer_;
  absl::Status status_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_PHYSICAL_TRACE_H_
