// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Which I/O ports and MSRs a guest uses without an exit (SDM 25.6.4, 25.6.9).

#ifndef TDP_BACKENDS_VTX_EXIT_BITMAPS_H_
#define TDP_BACKENDS_VTX_EXIT_BITMAPS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "tdp/base/address.h"

namespace tdp::vtx {

inline constexpr ByteCount kIoBitmapBytes = 2 * kPageSize;
inline constexpr ByteCount kMsrBitmapBytes = kPageSize;

// Sets or clears the bits of `count` ports from `first` on in the I/O bitmaps A and B, which are
// the two pages at `bitmaps`. An access of several ports exits if the bit of one of them is set.
// InvalidArgument, with nothing changed, beyond port 0xffff or for no port at all.
absl::Status SetIoExits(uint8_t* bitmaps, uint32_t first, uint32_t count, bool exits);

// Sets or clears the bits of RDMSR and WRMSR of `msr` in the MSR bitmap, which is the page at
// `bitmap`. InvalidArgument for an MSR outside of 0 to 0x1fff and 0xc0000000 to 0xc0001fff: those
// have no bit, and every access to them exits.
absl::Status SetMsrExits(uint8_t* bitmap, uint32_t msr, bool read_exits, bool write_exits);

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_EXIT_BITMAPS_H_
