// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Bytes become options of a VM and operations on it, judged by the flat model and by the software
// CPU's flush oracle. A crash prints its options and its operations as C++: paste them into a test
// of tests/model.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "tdp/mmu/option_pairs.h"
#include "tests/model/engine_model.h"

namespace {

using tdp::DirtyTracking;
using tdp::Use;

struct Setting {
  tdp::VmOptions options;
  int host_order = 9;
  uint64_t ring_entries = 0;
};

// Makes options of two bytes. Of two that do not go together the later is left out.
Setting SettingOf(uint8_t tables, uint8_t features) {
  constexpr DirtyTracking kTrackings[] = {DirtyTracking::kBest, DirtyTracking::kWriteProtection,
                                          DirtyTracking::kDirtyBits, DirtyTracking::kPml};
  Setting setting;
  setting.host_order = (tables & 1) != 0 ? 0 : 9;
  tdp::VmOptions wanted;
  const auto take = [&](bool is_asked) {
    if (is_asked && tdp::CheckPairs(wanted).ok()) setting.options = wanted;
    wanted = setting.options;
  };
  wanted.ept_levels = (tables & 2) != 0 ? 5 : 4;
  take(true);
  wanted.dirty_tracking = kTrackings[tables >> 2 & 3];
  take(true);
  wanted.reverse_map = true;
  take((features & 1) != 0);
  wanted.private_memory = true;
  take((features & 2) != 0);
  wanted.execute_4k_only = true;
  take((features & 4) != 0);
  wanted.virtualization_exceptions = Use::kRequire;
  take((features & 8) != 0);
  wanted.accessed_dirty = Use::kNever;
  take((features & 16) != 0);
  wanted.max_leaf_level = tdp::kLevel4K;
  take((features & 32) != 0);
  wanted.execute_by_mode = Use::kRequire;
  take((features & 64) != 0);
  wanted.mmio_caching = false;
  take((features & 128) != 0);
  const bool by_protection = setting.options.dirty_tracking == DirtyTracking::kWriteProtection;
  if (by_protection && (tables & 0x10) != 0) setting.ring_entries = 1024;
  return setting;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const Setting setting = SettingOf(data[0], data[1]);
  const std::vector<tdp::model::Op> ops = tdp::model::OpsFromBytes(data + 2, size - 2);
  static tdp::SimMachine machine(tdp::model::EngineModel::Machine());
  tdp::model::EngineModel model(machine, setting.options, setting.host_order, setting.ring_entries);
  absl::Status status;
  for (size_t i = 0; i < ops.size() && status.ok(); ++i) status = model.Apply(ops[i]);
  if (status.ok()) status = model.Check();
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\nwith the options of 0x%02x 0x%02x, after\n%s",
               status.ToString().c_str(), data[0], data[1], tdp::model::ToCpp(ops).c_str());
  std::abort();
}
