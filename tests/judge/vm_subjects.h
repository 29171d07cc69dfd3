// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This library's own `Vm` as subjects of the judge, which knows nothing of it.

#ifndef TDP_TESTS_JUDGE_VM_SUBJECTS_H_
#define TDP_TESTS_JUDGE_VM_SUBJECTS_H_

#include <vector>

#include "tdp/judge/tdp_judge.h"

namespace tdp::judge_test {

// Direct tables, one subject for each set of options and way of driving them (direct_subjects.cc).
std::vector<tdpj_subject> DirectSubjects();
// EPT02, which has to be the composition of EPT12 and the host's pages (nested_subject.cc).
tdpj_subject NestedSubject();
// The tables that CR3 points to for a guest whose paging is shadowed (shadow_subject.cc).
tdpj_subject ShadowSubject();

// All of them.
const std::vector<tdpj_subject>& VmSubjects();
// What `tdpj_get_subject` answers from now on.
void ChooseSubject(const tdpj_subject& subject);

}  // namespace tdp::judge_test

#endif  // TDP_TESTS_JUDGE_VM_SUBJECTS_H_
