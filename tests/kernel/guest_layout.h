// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest kernel's pages lie in four regions of a program and one of the kernel, each the size of a
// large page with sixteen small ones in use, far enough apart for every level to have several
// entries.

#ifndef TDP_TESTS_KERNEL_GUEST_LAYOUT_H_
#define TDP_TESTS_KERNEL_GUEST_LAYOUT_H_

#include <cstdint>

#include "tests/kernel/paging_shape.h"

namespace tdp::kernel {

inline constexpr int kPagesInRegion = 16;
inline constexpr int kUserRegions = 4;
inline constexpr int kKernelRegion = kUserRegions;  // mapped in every address space
inline constexpr int kPages = (kUserRegions + 1) * kPagesInRegion;
// Each page has so many words in use, 512 bytes apart.
inline constexpr int kWordsInPage = 8;

class GuestLayout {
 public:
  constexpr explicit GuestLayout(const PagingShape& shape) : shape_(shape) {}

  static constexpr int RegionOf(int page) { return page / kPagesInRegion; }
  static constexpr bool IsKernel(int page) { return RegionOf(page) == kKernelRegion; }

  constexpr uint64_t RegionAt(int region) const {
    constexpr uint64_t kLow[] = {0x400000, 0x800000, 0x40000000};
    if (region < 3) return kLow[region];
    if (region == kKernelRegion) return shape_.kernel_base + (uint64_t{256} << 20);
    return shape_.levels == 5   ? uint64_t{0x00aa'0000'0000'0000}
           : shape_.levels == 4 ? uint64_t{0x7f00'0000'0000}
                                : uint64_t{0x80000000};
  }
  // Returns the distance from the first page of the region; 4-byte tables are met in both of their
  // halves.
  constexpr uint64_t OffsetInRegion(int page) const {
    return static_cast<uint64_t>(page % kPagesInRegion) * (shape_.index_bits == 10 ? 67 : 33) << 12;
  }
  constexpr uint64_t AddressOf(int page) const {
    return RegionAt(RegionOf(page)) + OffsetInRegion(page);
  }
  // Returns a page of the kernel's region for each CPU, which no operation names.
  constexpr uint64_t ScratchOf(int cpu) const {
    return RegionAt(kKernelRegion) + (uint64_t{5} + static_cast<uint64_t>(cpu) * 2) * 4096;
  }
  static constexpr uint64_t WordAt(int word) { return static_cast<uint64_t>(word) * 512; }
  // Returns where the kernel sees `gpa`.
  constexpr uint64_t DirectMapOf(uint64_t gpa) const { return shape_.kernel_base + gpa; }

 private:
  PagingShape shape_;
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_GUEST_LAYOUT_H_
