// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// AMD's nested tables (APM vol. 2, 15.25 "Nested Paging" and 15.16 "TLB Control"): the root and the
// ASID of the VMCB, and what VMRUN does to the translations that the ASID tags.

#include <cstdint>

#include "absl/strings/str_format.h"
#include "tdp/judge/contract.h"
#include "tdp/judge/session.h"

namespace tdp::judge {
namespace {

// Set in a value for `WriteCr3`, it drops no translation.
constexpr uint64_t kKeepTranslations = uint64_t{1} << 63;

}  // namespace

// The guest runs on another root or under another ASID from now on, and nothing is dropped.
void Session::EnterNested(uint64_t root) {
  if (root % kPage == 0) {
    Misuse(
        absl::StrFormat("eptp() returned %#x, whose bits 11:0, the ASID, are 0, which VMRUN "
                        "refuses: add the VMCB's ASID to the root's address",
                        root));
  }
  if (cpu_.WriteCr3(root | kKeepTranslations) != sim::Event::kNone) {
    Misuse(absl::StrFormat("eptp() returned %#x, which is no root of nested tables", root));
  }
}

void Session::Vmrun(int tlb_control, unsigned asid) {
  TakeNote();
  RequireFormat(TDPJ_FORMAT_NPT, "tdpj_vmrun");
  if (asid == 0 || asid >= kPage) {
    Misuse(absl::StrFormat("tdpj_vmrun(%d, %u): the ASID is 1 to 4095", tlb_control, asid));
  }
  switch (tlb_control) {
    case 0:
      return;
    case 1:
      cpu_.Invpcid(2, 0, Gva(0));
      break;
    case 3:
    case 7:  // nested tables have no global pages
      cpu_.Invpcid(1, static_cast<uint16_t>(asid), Gva(0));
      break;
    default:
      Report("bad-tlb-control",
             absl::StrFormat("%s executes VMRUN with TLB_CONTROL %d, which is reserved: 0, 1, 3 "
                             "and 7 are not",
                             Asked(), tlb_control));
  }
  if (tlb_control == 1 || asid == root_ % kPage) OnFlush(true);
  if (in_subject_ && GuestMayRun()) FillCaches(true);
}

void Session::Invlpga() {
  TakeNote();
  RequireFormat(TDPJ_FORMAT_NPT, "tdpj_invlpga");
}

// The ASID alone tags what the CPU keeps, and not the root: where N_CR3 has moved, what it kept of
// the tables before is used on, and no entry of those needs to have changed.
void Session::JudgeNested(uint64_t gpa, const sim::AccessResult& result) {
  if (in_subject_ || !result.ok()) return;
  const sim::ProbeResult now = Probe(gpa);
  if (now.ok() && now.hpa == result.hpa) return;
  Report("stale.root-changed",
         absl::StrFormat("%s is done, and a CPU still uses the translation of gpa %#x to hpa %#x "
                         "that it kept under ASID %u from other tables than N_CR3's: no flush "
                         "dropped it",
                         Asked(), gpa, result.hpa.raw() & ~(kPage - 1), root_ % kPage));
}

}  // namespace tdp::judge
