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
// Of an entry, an EPTP or CR3: the bits of the address.
inline constexpr uint64_t kAddressBits = 0x000ffffffffff000;

// What is wrong with the adapter, in a sentence that says what to do; empty: nothing.
std::string MisuseOf(const tdpj_subject* subject);

// Whether the contract lets the step be asked of tables that say `map`, with dirty logging on in
// `logged`; why it does not otherwise, null if it does.
const char* WhyForbidden(const tdpj_subject& subject, const FlatMap& map, const RangeSet& logged,
                         const tdpj_step& step);

const char* StepName(int kind);
// "RW-", …
const char* RightsText(unsigned rights);

}  // namespace tdp::judge

#endif  // TDP_JUDGE_CONTRACT_H_
