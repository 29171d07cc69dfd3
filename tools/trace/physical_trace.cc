// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/physical_trace.h"

#include "absl/strings/str_cat.h"
#include "tdp/backends/sim/guest_rights.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 16;

}  // namespace

absl::StatusOr<std::unique_ptr<PhysicalTrace>> PhysicalTrace::Create(const std::string& path) {
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<OutputFile> file, OutputFile::Create(path));
  return std::unique_ptr<PhysicalTrace>(new PhysicalTrace(std::move(file)));
}

void PhysicalTrace::Add(Hpa hpa, AccessKind kind) {
  if (kind != AccessKind::kStore) absl::StrAppend(&buffer_, "0x", absl::Hex(hpa.raw()), " R\n");
  if (sim::Writes(kind)) absl::StrAppend(&buffer_, "0x", absl::Hex(hpa.raw()), " W\n");
  if (buffer_.size() >= kBufferBytes) Flush();
}

void PhysicalTrace::Flush() {
  if (status_.ok()) status_ = file_->Write(buffer_);
  buffer_.clear();
}

absl::Status PhysicalTrace::Close() {
  Flush();
  TDP_RETURN_IF_ERROR(status_);
  return file_->Commit();
}

}  // namespace tdp::tools
