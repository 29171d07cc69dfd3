// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The functions that the subject's stubs call.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tdp/judge/session.h"
#include "tdp/judge/tdp_judge.h"

namespace tdp::judge {
namespace {

Session& Judge(const char* who) {
  if (Session::current() == nullptr) {
    std::fprintf(stderr, "judge: %s was called before the judge ran the subject's create\n", who);
    std::exit(2);
  }
  return *Session::current();
}

}  // namespace
}  // namespace tdp::judge

using tdp::judge::Judge;

void* tdpj_alloc(void) { return Judge("tdpj_alloc").Allocate(1); }
void* tdpj_alloc_frames(unsigned n) { return Judge("tdpj_alloc_frames").Allocate(n); }
void* tdpj_adopt(void* p, size_t bytes) { return Judge("tdpj_adopt").Adopt(p, bytes); }
void tdpj_free(void* frame) { Judge("tdpj_free").Free(frame); }

uint64_t tdpj_phys(const volatile void* p) {
  tdp::judge::Session& judge = Judge("tdpj_phys");
  if (!judge.frames().IsInside(p)) {
    // A null pointer is an allocation that was not looked at; another one is other memory.
    if (reinterpret_cast<uint64_t>(p) >= tdp::kPageSize) {
      judge.Misuse(
          "tdpj_phys was asked for an address outside of the frames that tdpj_alloc gives: every "
          "table, the root too, must come from there, or from an array that create gives to "
          "tdpj_adopt");
    }
    judge.Report("bad-address", "tdpj_phys was asked for the address of a null pointer");
  }
  return judge.frames().PhysOf(judge.frames().Offset(p));
}

void* tdpj_virt(uint64_t phys) {
  tdp::judge::Session& judge = Judge("tdpj_virt");
  if (!judge.frames().IsPhysical(phys)) {
    judge.Report("bad-address", "tdpj_virt was asked for a physical address that is no table's");
  }
  return judge.frames().ViewOf(phys - judge.frames().first());
}

int tdpj_invept(int type, uint64_t eptp) { return Judge("tdpj_invept").Invept(type, eptp, 0); }

int tdpj_invept_descriptor(int type, const void* descriptor) {
  uint64_t words[2];
  std::memcpy(words, descriptor, sizeof words);
  return Judge("tdpj_invept_descriptor").Invept(type, words[0], words[1]);
}

int tdpj_invvpid(int type, unsigned vpid, uint64_t gva) {
  return Judge("tdpj_invvpid").Invvpid(type, vpid, gva);
}
void tdpj_invlpg(uint64_t address) { Judge("tdpj_invlpg").Invlpg(address); }
void tdpj_mov_cr3(void) { Judge("tdpj_mov_cr3").MovCr3(); }
void tdpj_vmrun(int tlb_control, unsigned asid) { Judge("tdpj_vmrun").Vmrun(tlb_control, asid); }
void tdpj_invlpga(uint64_t, unsigned) { Judge("tdpj_invlpga").Invlpga(); }
void tdpj_fatal(const char* what) { Judge("tdpj_fatal").Panic(what); }
void tdpj_store(const volatile void* p) {
  const size_t rest = tdp::kPageSize - reinterpret_cast<uintptr_t>(p) % tdp::kPageSize;
  Judge("tdpj_store")
      .BeforeStore(p, rest, reinterpret_cast<uint64_t>(__builtin_return_address(0)) - 1);
}
