// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Why a CPU refuses an entry: what an EPT misconfiguration or a reserved-bit fault does not say.

#ifndef TDP_JUDGE_REFUSED_ENTRY_H_
#define TDP_JUDGE_REFUSED_ENTRY_H_

#include <cstdint>
#include <string>

namespace tdp::judge {

// Says why an entry of `level` that is present is refused by a CPU with physical addresses of
// `width` bits. With `linear` it is of the format of CR3's tables, else of EPT.
std::string WhyRefused(uint64_t entry, int level, bool linear, int width);

}  // namespace tdp::judge

#endif  // TDP_JUDGE_REFUSED_ENTRY_H_
