// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/kernel_run.h"

#include "absl/strings/str_cat.h"

namespace tdp::kernel {

KernelRun RunKernel(GuestMachine& machine, sim::PagingMode mode, const KernelFeatures& features,
                    const std::vector<KernelOp>& ops, size_t check_every) {
  Referee referee(machine, PagingShape::Of(mode));
  GuestKernel kernel(referee, features);
  size_t done = 0;
  while (done < ops.size() && referee.ok()) {
    kernel.Apply(ops[done++]);
    if (done % check_every == 0) referee.CheckAll();
  }
  if (referee.ok()) referee.CheckAll();
  KernelRun run;
  run.status = referee.status();
  if (!run.status.ok()) {
    const std::vector<KernelOp> made(ops.begin(), ops.begin() + static_cast<ptrdiff_t>(done));
    run.status = absl::Status(run.status.code(),
                              absl::StrCat(run.status.message(), "\nafter\n", ToCpp(made)));
  }
  run.visible = kernel.visible();
  run.accesses = referee.accesses();
  run.ambiguous = referee.ambiguous();
  run.stale = referee.stale();
  run.copies = kernel.copies();
  run.flips = kernel.flips();
  return run;
}

}  // namespace tdp::kernel
