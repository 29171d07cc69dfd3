// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/judge/vm_subjects.h"

namespace tdp::judge_test {
namespace {

const tdpj_subject* chosen = nullptr;

}  // namespace

const std::vector<tdpj_subject>& VmSubjects() {
  static const std::vector<tdpj_subject> subjects = [] {
    std::vector<tdpj_subject> all = DirectSubjects();
    all.push_back(NestedSubject());
    all.push_back(ShadowSubject());
    return all;
  }();
  return subjects;
}

void ChooseSubject(const tdpj_subject& subject) { chosen = &subject; }

}  // namespace tdp::judge_test

const tdpj_subject* tdpj_get_subject(void) { return tdp::judge_test::chosen; }
