// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Seeing the stores of a subject that cannot be recompiled: its view of the tables is read-only;
// each store traps, is let through, and traps again once it is done.

#ifndef TDP_JUDGE_STEP_MODE_H_
#define TDP_JUDGE_STEP_MODE_H_

namespace tdp::judge {

// Installs handlers for faults in the subject: with `step`, of its stores to tables; and always of
// crashes, which become findings with their instruction. On other processors than x86-64 there is
// no step mode.
void InstallFaultHandlers(bool step);

}  // namespace tdp::judge

#endif  // TDP_JUDGE_STEP_MODE_H_
