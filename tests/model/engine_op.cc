// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/model/engine_op.h"

#include <cstddef>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tdp::model {
namespace {

const char* Name(OpKind kind) {
  switch (kind) {
    case OpKind::kAccess:
      return "kAccess";
    case OpKind::kSetSlot:
      return "kSetSlot";
    case OpKind::kDeleteSlot:
      return "kDeleteSlot";
    case OpKind::kZap:
      return "kZap";
    case OpKind::kZapAll:
      return "kZapAll";
    case OpKind::kDiscard:
      return "kDiscard";
    case OpKind::kMigrate:
      return "kMigrate";
    case OpKind::kProtect:
      return "kProtect";
    case OpKind::kNewVcpu:
      return "kNewVcpu";
    case OpKind::kAge:
      return "kAge";
    case OpKind::kSplit:
      return "kSplit";
    case OpKind::kCollapse:
      return "kCollapse";
    case OpKind::kPrefault:
      return "kPrefault";
    case OpKind::kSetView:
      return "kSetView";
    case OpKind::kRights:
      return "kRights";
    case OpKind::kAttributes:
      return "kAttributes";
    case OpKind::kMemoryTypes:
      return "kMemoryTypes";
    case OpKind::kQuota:
      return "kQuota";
    case OpKind::kTakeLog:
      return "kTakeLog";
    case OpKind::kMarkDirty:
      return "kMarkDirty";
    case OpKind::kPushDownLog:
      return "kPushDownLog";
    case OpKind::kFrames:
      return "kFrames";
    case OpKind::kPopulate:
      return "kPopulate";
    case OpKind::kBatch:
      return "kBatch";
    case OpKind::kCount:
      break;
  }
  return "kCount";
}

uint16_t Word(const uint8_t* at) { return static_cast<uint16_t>(at[0] | at[1] << 8); }

}  // namespace

std::string ToCpp(const Op& op) {
  return absl::StrFormat("{OpKind::%s, %d, %d, %d, 0x%x, 0x%x, 0x%x},", Name(op.kind), op.cpu,
                         op.how, op.slot, op.page, op.count, op.host);
}

std::string ToCpp(const std::vector<Op>& ops) {
  std::string text;
  for (const Op& op : ops) absl::StrAppend(&text, "    ", ToCpp(op), "\n");
  return text;
}

std::vector<Op> OpsFromBytes(const uint8_t* data, size_t size) {
  constexpr size_t kBytes = 11;
  std::vector<Op> ops;
  for (; size >= kBytes; data += kBytes, size -= kBytes) {
    Op op;
    // Accesses find the mistakes, so half of all operations are accesses.
    const int kind = data[0] % (2 * static_cast<int>(OpKind::kCount));
    op.kind = kind < static_cast<int>(OpKind::kCount) ? static_cast<OpKind>(kind) : OpKind::kAccess;
    op.cpu = data[1];
    op.how = data[2];
    op.slot = data[3];
    op.page = Word(data + 4);
    op.count = Word(data + 6);
    op.host = Word(data + 8);
    ops.push_back(op);
  }
  return ops;
}

}  // namespace tdp::model
