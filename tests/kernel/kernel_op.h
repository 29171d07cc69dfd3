// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One thing that a guest kernel or its programs do is a value that prints as C++: a run that fails
// becomes a named test by pasting its lines.

#ifndef TDP_TESTS_KERNEL_KERNEL_OP_H_
#define TDP_TESTS_KERNEL_KERNEL_OP_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tdp::kernel {

enum class KernelOpKind : uint8_t {
  kAccess,        // the program on `cpu` or its kernel accesses `page`: see `KernelAccess`
  kCreate,        // address space `space` comes to be, or
  kDestroy,       // goes
  kFork,          // `space` is copied, its pages shared until they are written
  kSwitch,        // `cpu` runs `space`
  kMap,           // `page` gets a new frame, with rights `how`
  kRemap,         // the same, also where one is mapped
  kShare,         // `page` gets the frame of page `how`
  kUnmap,         // `page` goes; with an odd `how` its table too if it is empty
  kProtect,       // `page` gets other rights
  kProtectTable,  // the table of `page` loses or gets rights
  kFlip,          // the large page around `page` becomes a table of small ones, or the reverse
  kClearUse,      // A and D of `page` are cleared
  kPoison,        // `page` gets a reserved bit
  kRegisters,     // `cpu` changes CR0.WP, CR4.SMEP or CR4.SMAP
  kFlushAll,      // every CPU drops everything; frames change between tables and data
  kDisturb,       // the host does something that nobody should notice
  kCount          // not an operation
};

struct KernelOp {
  KernelOpKind kind = KernelOpKind::kAccess;
  uint8_t cpu = 0;
  uint8_t space = 0;
  uint8_t page = 0;
  uint16_t how = 0;
  bool careless = false;  // the kernel forgets the invalidations that it owes

  friend bool operator==(const KernelOp&, const KernelOp&) = default;
};

// Names the parts of `KernelOp::how` of an access.
struct KernelAccess {
  static constexpr uint16_t kStore = 1 << 0;
  static constexpr uint16_t kFetch = 1 << 1;      // unless it is a store
  static constexpr uint16_t kByKernel = 1 << 2;   // else at CPL 3
  static constexpr uint16_t kAlignment = 1 << 3;  // RFLAGS.AC
  static constexpr int kWordShift = 4;            // which of the page's words, 3 bits
};

// Returns "{KernelOpKind::kUnmap, 0, 1, 12, 0x0, false}," and the like.
std::string ToCpp(const KernelOp& op);
std::string ToCpp(const std::vector<KernelOp>& ops);

// Makes operations of arbitrary bytes, 6 each; a rest is dropped. With `careless` some forget their
// invalidations.
std::vector<KernelOp> KernelOpsFromBytes(const uint8_t* data, size_t size, bool careless);
// Makes `count` operations by a generator.
std::vector<KernelOp> RandomKernelOps(uint64_t seed, size_t count, bool careless);

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_KERNEL_OP_H_
