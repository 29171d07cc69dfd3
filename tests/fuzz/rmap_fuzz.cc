// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Bytes become operations on an engine that keeps a reverse map, judged by the flat model, by the
// software CPU's flush oracle and by the invariants of the map. A crash prints its operations as
// C++: paste them into a test of tests/model.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "tests/model/engine_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<tdp::model::Op> ops = tdp::model::OpsFromBytes(data, size);
  // The size decides how large the host's pages are, so that both kinds are met.
  static tdp::SimMachine machine(tdp::model::EngineModel::Machine());
  tdp::model::EngineModel model(machine, {.reverse_map = true}, size % 2 == 0 ? 0 : 9);
  absl::Status status;
  for (size_t i = 0; i < ops.size() && status.ok(); ++i) {
    status = model.Apply(ops[i]);
    if (status.ok() && i % 8 == 0) status = model.Check();
  }
  if (status.ok()) status = model.Check();
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\nafter\n%s", status.ToString().c_str(), tdp::model::ToCpp(ops).c_str());
  std::abort();
}
