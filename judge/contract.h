// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The contract of a subject: whether it is one, and what it allows.

#ifndef TDP_JUDGE_CONTRACT_H_
#define TDP_JUDGE_CONTRACT_H_

#include <cstdint>
#include <string>

#include "tdp/judge/flat_map.h"
#include "tdp/judge/tdp_judge.h"

namespace tdp::judge {

inline constexpr uint64_t kPage = 4096;
inline constexpr uint64_t kPage2M = kPage << 9;
// The bits of the address in an entry, an EPTP or CR3.
inline constexpr uint64_t kAddressBits = 0x000ffffffffff000;

// Says what is wrong with the adapter, in a sentence that says what to do; empty if nothing is.
std::string MisuseOf(const tdpj_subject* subject);

// Says why the contract does not let the step be asked of tables that say `map`, with dirty logging
// on in `logged`; null if it does.
const char* WhyForbidden(const tdpj_subject& subject, const FlatMap& map, const RangeSet& logged,
                         const tdpj_step& step);

const char* StepName(int kind);
// "RW-", …
const char* RightsText(unsigned rights);

}  // namespace tdp::judge

#endif  // TDP_JUDGE_CONTRACT_H_
