// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This is the judge's command line for this library's own tables: `vm_judge [SUBJECT] [OPTION]…`.
// Without a subject each has its turn. The exit status is the worst of theirs.

#include <algorithm>
#include <cstdio>
#include <string>

#include "tests/judge/vm_subjects.h"

int main(int argc, char** argv) {
  const bool one = argc > 1 && argv[1][0] != '-';
  const std::string wanted = one ? argv[1] : "";
  if (one) argv[1] = argv[0];
  int status = -1;
  for (const tdpj_subject& subject : tdp::judge_test::VmSubjects()) {
    if (one && wanted != subject.name) continue;
    tdp::judge_test::ChooseSubject(subject);
    status = std::max(status, tdpj_main(one ? argc - 1 : argc, one ? argv + 1 : argv));
  }
  if (status >= 0) return status;
  std::fprintf(stderr, "there is no subject %s; there are:", wanted.c_str());
  for (const tdpj_subject& subject : tdp::judge_test::VmSubjects()) {
    std::fprintf(stderr, " %s", subject.name);
  }
  std::fprintf(stderr, "\n");
  return 2;
}
