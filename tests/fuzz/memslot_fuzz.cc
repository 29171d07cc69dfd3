// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Bytes become operations on slots, dirty logs and regions, judged by a map of pages. A crash
// prints its operations as C++: paste them into tests/memslot/slot_ops_test.cc.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "absl/status/status.h"
#include "tdp/tests/memslot/slot_ops.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<tdp::SlotOp> ops = tdp::SlotOpsFromBytes(data, size);
  tdp::SlotOpsModel model;
  absl::Status status;
  for (size_t i = 0; i < ops.size() && status.ok(); ++i) status = model.Apply(ops[i]);
  if (status.ok()) status = model.Check();
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\nafter\n%s", status.ToString().c_str(), tdp::SlotOpsToCpp(ops).c_str());
  std::abort();
}
