// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/kernel_op.h"

#include <iterator>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tdp::kernel {
namespace {

constexpr const char* kNames[] = {"kAccess",       "kCreate", "kDestroy",  "kFork",   "kSwitch",
                                  "kMap",          "kRemap",  "kShare",    "kUnmap",  "kProtect",
                                  "kProtectTable", "kFlip",   "kClearUse", "kPoison", "kRegisters",
                                  "kFlushAll",     "kDisturb"};
static_assert(std::size(kNames) == static_cast<size_t>(KernelOpKind::kCount));

// The mix decides how often each kind comes up: address spaces come and go seldom, or nothing gets
// mapped.
constexpr KernelOpKind kMix[] = {
    KernelOpKind::kCreate,   KernelOpKind::kDestroy, KernelOpKind::kFork,
    KernelOpKind::kFork,     KernelOpKind::kSwitch,  KernelOpKind::kSwitch,
    KernelOpKind::kSwitch,   KernelOpKind::kSwitch,  KernelOpKind::kMap,
    KernelOpKind::kMap,      KernelOpKind::kMap,     KernelOpKind::kMap,
    KernelOpKind::kRemap,    KernelOpKind::kRemap,   KernelOpKind::kShare,
    KernelOpKind::kUnmap,    KernelOpKind::kUnmap,   KernelOpKind::kProtect,
    KernelOpKind::kProtect,  KernelOpKind::kProtect, KernelOpKind::kProtectTable,
    KernelOpKind::kFlip,     KernelOpKind::kFlip,    KernelOpKind::kClearUse,
    KernelOpKind::kClearUse, KernelOpKind::kPoison,  KernelOpKind::kRegisters,
    KernelOpKind::kFlushAll, KernelOpKind::kDisturb};

// A few pages are in use most of the time, so that what is cached of them matters.
uint8_t PageOf(uint8_t byte) {
  constexpr uint8_t kHot[] = {0, 1, 3, 17, 34, 50, 64, 66};
  return byte % 4 != 0 ? kHot[byte / 4 % std::size(kHot)] : byte / 4;
}

}  // namespace

std::string ToCpp(const KernelOp& op) {
  return absl::StrFormat("{KernelOpKind::%s, %d, %d, %d, 0x%x, %s},",
                         kNames[static_cast<size_t>(op.kind)], op.cpu, op.space, op.page, op.how,
                         op.careless ? "true" : "false");
}

std::string ToCpp(const std::vector<KernelOp>& ops) {
  std::string text;
  for (const KernelOp& op : ops) absl::StrAppend(&text, "    ", ToCpp(op), "\n");
  return text;
}

std::vector<KernelOp> KernelOpsFromBytes(const uint8_t* data, size_t size, bool careless) {
  constexpr size_t kBytes = 6;
  std::vector<KernelOp> ops;
  for (; size >= kBytes; data += kBytes, size -= kBytes) {
    KernelOp op;
    // Accesses find the mistakes, so half of all operations are accesses.
    const size_t kind = data[0] % (2 * std::size(kMix));
    op.kind = kind < std::size(kMix) ? kMix[kind] : KernelOpKind::kAccess;
    op.cpu = data[1] & 15;
    op.space = data[1] >> 4;
    op.page = PageOf(data[2]);
    op.how = static_cast<uint16_t>(data[3] | data[4] << 8);
    op.careless = careless && data[5] % 2 == 0;
    ops.push_back(op);
  }
  return ops;
}

std::vector<KernelOp> RandomKernelOps(uint64_t seed, size_t count, bool careless) {
  std::mt19937_64 random(seed);
  std::vector<uint8_t> bytes(count * 6);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return KernelOpsFromBytes(bytes.data(), bytes.size(), careless);
}

}  // namespace tdp::kernel
