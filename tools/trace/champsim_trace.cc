// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/champsim_trace.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

constexpr size_t kBatchInstructions = 4096;
constexpr int kFetchSizeLog2 = 2;
constexpr int kOperandSizeLog2 = 3;

// Two writes and four reads; of CloudSuite's traces four each.
struct Instruction {
  uint64_t pointer;
  std::array<uint8_t, 8> branch_and_registers;
  std::array<uint64_t, 2> writes;
  std::array<uint64_t, 4> reads;
};
static_assert(sizeof(Instruction) == 64);
struct CloudsuiteInstruction {
  uint64_t pointer;
  std::array<uint8_t, 16> branch_and_registers;
  std::array<uint64_t, 4> writes;
  std::array<uint64_t, 4> reads;
  std::array<uint8_t, 8> space_and_padding;
};
static_assert(sizeof(CloudsuiteInstruction) == 96);

template <typename Instruction>
class ChampsimTraceReader final : public TraceReader {
 public:
  ChampsimTraceReader(std::unique_ptr<ByteSource> source, TraceTolerance tolerance)
      : source_(std::move(source)),
        tolerance_(tolerance),
        bytes_(kBatchInstructions * sizeof(Instruction)) {}

  absl::StatusOr<size_t> Read(absl::Span<TraceRecord> records) override {
    while (parsed_.size() - taken_ < records.size() && !at_end_) {
      TDP_RETURN_IF_ERROR(ParseBatch());
    }
    const size_t count = std::min(records.size(), parsed_.size() - taken_);
    std::copy_n(parsed_.begin() + static_cast<ptrdiff_t>(taken_), count, records.begin());
    taken_ += count;
    return count;
  }

  const ByteSource& source() const override { return *source_; }

 private:
  absl::Status ParseBatch() {
    parsed_.erase(parsed_.begin(), parsed_.begin() + static_cast<ptrdiff_t>(taken_));
    taken_ = 0;
    TDP_ASSIGN_OR_RETURN(const size_t got, source_->Read(absl::MakeSpan(bytes_)));
    at_end_ = got < bytes_.size();
    if (got % sizeof(Instruction) != 0) {
      return absl::DataLossError(absl::StrCat(source_->name(),
                                              ": truncated: the trace ends at byte ", offset_ + got,
                                              " inside a ChampSim record"));
    }
    for (size_t at = 0; at < got; at += sizeof(Instruction), offset_ += sizeof(Instruction)) {
      Instruction instruction;
      std::memcpy(&instruction, &bytes_[at], sizeof(Instruction));
      TDP_RETURN_IF_ERROR(Append(instruction));
    }
    return absl::OkStatus();
  }

  absl::Status Append(const Instruction& instruction) {
    TDP_RETURN_IF_ERROR(AppendOne(AccessKind::kFetch, kFetchSizeLog2, instruction.pointer));
    const auto& writes = instruction.writes;
    for (uint64_t address : instruction.reads) {
      if (address == 0) continue;
      const bool written = std::find(writes.begin(), writes.end(), address) != writes.end();
      TDP_RETURN_IF_ERROR(
          AppendOne(written ? AccessKind::kModify : AccessKind::kLoad, kOperandSizeLog2, address));
    }
    const auto& reads = instruction.reads;
    for (uint64_t address : writes) {
      if (address == 0 || std::find(reads.begin(), reads.end(), address) != reads.end()) continue;
      TDP_RETURN_IF_ERROR(AppendOne(AccessKind::kStore, kOperandSizeLog2, address));
    }
    return absl::OkStatus();
  }

  absl::Status AppendOne(AccessKind kind, int size_log2, uint64_t address) {
    const auto record = TraceRecord::Make(Gva(address), kind, size_log2);
    if (address >> tolerance_.address_bits == 0 && IsUserRecord(record, tolerance_.address_bits)) {
      parsed_.push_back(record);
      return absl::OkStatus();
    }
    const bool kernel = IsKernelAddress(address);
    ++(kernel ? skipped_.kernel : skipped_.bad_address);
    if (!tolerance_.strict || (kernel && tolerance_.skip_kernel)) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        source_->name(), ": byte ", offset_, " of the trace: not a ChampSim record: 0x",
        absl::Hex(address),
        kernel ? " is a kernel address, which --skip-kernel leaves out" : " is no user address"));
  }

  const std::unique_ptr<ByteSource> source_;
  const TraceTolerance tolerance_;
  std::vector<char> bytes_;
  std::vector<TraceRecord> parsed_;
  size_t taken_ = 0;  // of parsed_
  uint64_t offset_ = 0;
  bool at_end_ = false;
};

// Returns whether all records of `head` can be ones of this layout.
template <typename Instruction>
bool LooksLike(std::string_view head) {
  const size_t count = head.size() / sizeof(Instruction);
  for (size_t i = 0; i < count; ++i) {
    Instruction instruction;
    std::memcpy(&instruction, &head[i * sizeof(Instruction)], sizeof(Instruction));
    const uint8_t is_branch = instruction.branch_and_registers[0];
    const uint8_t taken = instruction.branch_and_registers[1];
    const auto is_address = [](uint64_t address) {
      return address >> kMostUserAddressBits == 0 || IsKernelAddress(address);
    };
    if (instruction.pointer < kPageSize || !is_address(instruction.pointer) || is_branch > 1 ||
        taken > is_branch ||
        !std::all_of(instruction.writes.begin(), instruction.writes.end(), is_address) ||
        !std::all_of(instruction.reads.begin(), instruction.reads.end(), is_address)) {
      return false;
    }
  }
  return count != 0;
}

}  // namespace

std::unique_ptr<TraceReader> MakeChampsimTraceReader(std::unique_ptr<ByteSource> source,
                                                     TraceTolerance tolerance) {
  return std::make_unique<ChampsimTraceReader<Instruction>>(std::move(source), tolerance);
}

std::unique_ptr<TraceReader> MakeCloudsuiteTraceReader(std::unique_ptr<ByteSource> source,
                                                       TraceTolerance tolerance) {
  return std::make_unique<ChampsimTraceReader<CloudsuiteInstruction>>(std::move(source), tolerance);
}

bool LooksLikeChampsim(std::string_view head) { return LooksLike<Instruction>(head); }
bool LooksLikeCloudsuite(std::string_view head) { return LooksLike<CloudsuiteInstruction>(head); }

}  // namespace tdp::tools
