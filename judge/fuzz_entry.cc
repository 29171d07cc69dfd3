// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The entry of libFuzzer, and of AFL++ through its driver: bytes choose the steps. The amalgamated
// file has it where TDPJ_FUZZ is defined.

#include "tdp/judge/tdp_judge.h"

#ifdef TDPJ_FUZZ

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "tdp/judge/contract.h"
#include "tdp/judge/generator.h"
#include "tdp/judge/runner.h"

namespace tdp::judge {
namespace {

Record* FuzzRecord() {
  static Record* const record = new Record();
  return record;
}

// A finding ends the fuzzer's process, which keeps the input.
[[noreturn]] void EndFuzzing() {
  const Record& record = *FuzzRecord();
  const std::vector<tdpj_step> steps(record.steps, record.steps + record.count);
  std::fprintf(stderr, "%s\n  %s\n  at %s\n%s", record.finding.signature, record.finding.sentence,
               record.finding.pc == 0 ? "?" : PlaceOf(record.finding.pc).c_str(),
               StepsAsC(steps).c_str());
  std::abort();
}

}  // namespace
}  // namespace tdp::judge

// Each eight bytes are the seed of one step, so that inputs can be cut and joined.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tdp::judge::Session;
  static Session* const session = [] {
    const tdpj_subject* subject = tdpj_get_subject();
    if (const std::string misuse = tdp::judge::MisuseOf(subject); !misuse.empty()) {
      std::fprintf(stderr, "judge: the adapter is wrong: %s\n", misuse.c_str());
      std::exit(2);
    }
    return new Session(*subject, *tdp::judge::FuzzRecord(), tdp::judge::StoreView::kHooks,
                       tdp::judge::EndFuzzing);
  }();
  tdp::judge::FuzzRecord()->count = 0;
  session->Begin();
  for (size_t at = 0; at + 8 <= size && at < 8 * 64 && !session->is_over(); at += 8) {
    uint64_t seed;
    std::memcpy(&seed, data + at, sizeof seed);
    // The regions are those of the first byte: steps have to meet.
    tdp::judge::Generator generator(session->subject(), seed, session->frames().first(),
                                    tdp::judge::kFrames * tdp::judge::kPage);
    generator.SetRegions(data[0]);
    tdpj_step step;
    if (generator.Next(session->map(), session->logged(), step)) session->Run(step);
  }
  session->End();
  return 0;
}

#endif  // TDPJ_FUZZ
