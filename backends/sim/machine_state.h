// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Holds what the parts of one CPU (its walkers, caches and logs) share.

#ifndef TDP_BACKENDS_SIM_MACHINE_STATE_H_
#define TDP_BACKENDS_SIM_MACHINE_STATE_H_

#include <cstdint>

#include "absl/base/optimization.h"
#include "tdp/backends/sim/contexts.h"
#include "tdp/backends/sim/controls.h"
#include "tdp/backends/sim/cost_model.h"
#include "tdp/backends/sim/exit.h"
#include "tdp/backends/sim/features.h"
#include "tdp/backends/sim/flush_oracle.h"
#include "tdp/backends/sim/physical_memory.h"
#include "tdp/backends/sim/reference_counts.h"
#include "tdp/backends/sim/registers.h"
#include "tdp/mmu/format/eptp.h"

namespace tdp::sim {

// Knows which frames are tables. With it a walk that is led anywhere else ends in `kWalkedNoTable`,
// where hardware would take whatever it finds there for entries.
class TableFrames {
 public:
  virtual ~TableFrames() = default;
  // Returns whether the page-aligned `frame` is a table. Called from every CPU.
  virtual bool IsTable(Hpa frame) const = 0;
};

// Touched by the CPU's own thread only.
struct MachineState {
  explicit MachineState(const PhysicalMemory& physical) : memory(physical) {}

  // Returns the paging-structure entry at `hpa`, counted in `count` and charged to the walk.
  template <typename Word = uint64_t>
  uint64_t ReadEntry(uint64_t hpa, uint64_t& count) {
    ++count;
    if (ABSL_PREDICT_FALSE(cost != nullptr)) {
      counters.walk_cycles += static_cast<uint64_t>(cost->Access(hpa));
    }
    return memory.Load<Word>(hpa);
  }

  PhysicalMemory memory;
  CpuFeatures features;
  CachePolicy policy = CachePolicy::kRealistic;
  Registers registers;
  Controls controls;
  Eptp eptp;
  // The VMCS field "PML index": the entry that the next log write takes, counted down; above 511
  // the log is full.
  uint16_t pml_index = 511;
  // The VMCS field "EPTP index": where VMFUNC found the EPTP in use; goes to the #VE page.
  uint16_t eptp_index = 0;
  ContextTable contexts;
  CpuCounters counters;
  Exit exit;
  // Says whether bit 63 of the entry behind the last violation keeps it a VM exit.
  bool violation_suppresses_ve = false;
  DataCacheModel* cost = nullptr;       // null: references cost nothing
  FlushOracle* oracle = nullptr;        // null: stale translations are used in silence
  const TableFrames* tables = nullptr;  // null: a walk goes wherever it is led
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_MACHINE_STATE_H_
