// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the machines of these tests have in common: simulated CPUs that forget as late as they may,
// a `Vm` with the guest's memory in it, and a host that does things behind its back.

#ifndef TDP_TESTS_KERNEL_SIM_HOST_H_
#define TDP_TESTS_KERNEL_SIM_HOST_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "tdp/backends/sim/flush_oracle.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/backends/sim/sim_backend.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/vm.h"
#include "tests/kernel/guest_machine.h"

namespace tdp::kernel {

// What a machine does wrong on purpose, to show that the model finds it.
enum class Mistake : uint8_t {
  kNone,
  kIgnoresInvlpg,
  kIgnoresInvpcid,
  kKeepsOnCr3,      // MOV to CR3 drops nothing
  kForgetsFlushes,  // the engine's flushes never reach the CPUs
};

struct HostOptions {
  int cpus = 2;
  Mistake mistake = Mistake::kNone;
  VmOptions vm;
  int host_order = 9;  // of the host's pages
};

class SimHost : public EntryStoreHook {
 public:
  explicit SimHost(const HostOptions& options);
  ~SimHost() override;

  sim::HostMemory& memory() { return memory_; }
  sim::SimBackend& backend() { return *backend_; }
  Vm& vm() { return *vm_; }
  Vcpu& vcpu(int cpu) { return *vcpus_[static_cast<size_t>(cpu)]; }
  sim::Cpu& cpu(int cpu) { return backend_->cpu(static_cast<VcpuId>(cpu)); }
  const HostOptions& options() const { return options_; }

  uint64_t Peek(Gpa gpa, unsigned bytes);
  void Poke(Gpa gpa, unsigned bytes, uint64_t value);
  // The memory operation itself, once the CPU has said where.
  uint64_t Perform(Hpa hpa, const MachineAccess& access);
  absl::Status Disturb(unsigned what, uint64_t where);
  absl::Status Check();

 private:
  void OnStore(const uint64_t* where, EptEntry before, EptEntry after) override;
  absl::Status MoveMemory(unsigned what, Hva start, ByteCount size);
  absl::Status SetLogging(bool on);

  const HostOptions options_;
  sim::HostMemory memory_;
  sim::FlushOracle oracle_;
  std::unique_ptr<sim::SimBackend> backend_;
  std::unique_ptr<Vm> vm_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  bool is_logging_ = false;
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_SIM_HOST_H_
