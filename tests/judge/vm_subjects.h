// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This library's own `Vm` makes subjects of the judge, which knows nothing of it.

#ifndef TDP_TESTS_JUDGE_VM_SUBJECTS_H_
#define TDP_TESTS_JUDGE_VM_SUBJECTS_H_

#include <vector>

#include "tdp/judge/tdp_judge.h"

namespace tdp::judge_test {

// Returns the subjects with direct tables, one for each set of options and way of driving them
// (direct_subjects.cc).
std::vector<tdpj_subject> DirectSubjects();
// Returns the one with EPT02, which has to be the composition of EPT12 and the host's pages
// (nested_subject.cc).
tdpj_subject NestedSubject();
// Returns the one with the tables to which CR3 points for a guest whose paging is shadowed
// (shadow_subject.cc).
tdpj_subject ShadowSubject();

// Returns all of these.
const std::vector<tdpj_subject>& VmSubjects();
// Lets `tdpj_get_subject` answer `subject` from now on.
void ChooseSubject(const tdpj_subject& subject);

}  // namespace tdp::judge_test

#endif  // TDP_TESTS_JUDGE_VM_SUBJECTS_H_
