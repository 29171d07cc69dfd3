// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Each test with simulated CPUs is made of this: the machine's memory, its CPUs, an oracle that
// knows which translations they may still use, and a `Vm` on them.

#ifndef TDP_TESTS_WORLD_SIM_WORLD_H_
#define TDP_TESTS_WORLD_SIM_WORLD_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/sim/flush_oracle.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/backends/sim/sim_backend.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/vm.h"
#include "tests/world/run_until_done.h"
#include "tests/world/sim_backends.h"

namespace tdp {

// Tells the flush oracle of every store to an entry.
class OracleHook : public EntryStoreHook {
 public:
  OracleHook(sim::FlushOracle& oracle, const sim::HostMemory& memory)
      : oracle_(oracle), offset_(memory.direct_map_offset()), before_(SetEntryStoreHook(this)) {}
  ~OracleHook() override { SetEntryStoreHook(before_); }
  void OnStore(const uint64_t* where, EptEntry before, EptEntry after) override {
    oracle_.OnStore(Hpa(reinterpret_cast<uintptr_t>(where) - offset_), before.raw(), after.raw(),
                    "the engine");
  }

 private:
  sim::FlushOracle& oracle_;
  const uintptr_t offset_;
  EntryStoreHook* const before_;
};

struct SimMachineOptions {
  int cpus = 1;
  // The CPUs keep every translation that they may, unless a test says otherwise.
  sim::CpuConfig cpu = {.policy = sim::CachePolicy::kAdversarial};
  sim::HostMemoryOptions memory = {.size = GiB(1)};
  sim::HostMemory* shared_memory = nullptr;  // in place of memory of its own, which it outlives
  // True if the oracle looks at each use of a translation. It sees one machine at a time.
  bool is_watched = true;
  sim::FlushOracleOptions oracle = {.accessed_clear_owed = false};  // as `Vm::AgeHostRange` decides
};

// Is what a world stands on, one world at a time. Made for several it saves each the time to make
// memory and caches of its own.
class SimMachine {
 public:
  explicit SimMachine(const SimMachineOptions& options);

  // Makes it as new, whatever was done here: nothing in a later world depends on those before it.
  // No world is on it, and its memory is its own.
  void Reset();

  sim::HostMemory& memory() { return memory_; }
  HookedBackend& backend() { return backend_; }
  sim::FlushOracle& oracle() { return oracle_; }
  bool is_watched() const { return is_watched_; }

 private:
  const bool is_watched_;
  sim::FlushOracle oracle_;
  std::optional<sim::HostMemory> own_memory_;
  sim::HostMemory& memory_;
  HookedBackend backend_;
};

struct SimWorldOptions {
  VmOptions vm;
  int vcpus = 1;
  // Names the machine that earlier worlds have left, which is reset. Null stands for one of the
  // world's own, as below.
  SimMachine* machine = nullptr;
  int cpus = 0;  // if more than `vcpus`
  sim::CpuConfig cpu = SimMachineOptions().cpu;
  sim::HostMemoryOptions memory = SimMachineOptions().memory;
  sim::HostMemory* shared_memory = nullptr;
  bool is_watched = true;
  sim::FlushOracleOptions oracle = SimMachineOptions().oracle;
};

class SimWorld {
 public:
  // Guest memory is at this address of the host's, unless a test says otherwise.
  static constexpr Hva kRam{0x7f0000000000};

  explicit SimWorld(const SimWorldOptions& options = {});

  sim::HostMemory& memory() { return machine_.memory(); }
  HookedBackend& backend() { return machine_.backend(); }
  sim::FlushOracle& oracle() { return machine_.oracle(); }
  Vm& vm() const { return *vm_; }
  Vcpu& vcpu(int i = 0) const { return *vcpus_[static_cast<size_t>(i)]; }
  sim::Cpu& cpu(int i = 0) { return backend().cpu(backend().CpuOf(static_cast<VcpuId>(i))); }
  int vcpus() const { return static_cast<int>(vcpus_.size()); }
  void AddVcpu() { vcpus_.push_back(*vm_->CreateVcpu()); }
  void RemoveVcpu(int i) { vcpus_[static_cast<size_t>(i)].reset(); }
  // Puts another vCPU in the place of vCPU `i`.
  void ReplaceVcpu(int i);

  // Sets slot 0 from guest address 0 on, backed in pieces of `order`. To set it again: order -1.
  absl::Status SetRam(ByteCount size, int order = 0, uint32_t flags = 0);
  // Moves pages of the host to other frames, as its notifiers say.
  absl::Status Migrate(Hva start, ByteCount size);
  // Does what an exit handler does with the log of CPU `i`, where CPUs keep one.
  absl::Status DrainPml(int i);
  // Settles the flush of a call that has succeeded. Every change so far is due then.
  void Settle(absl::StatusOr<PendingFlush> flush);

  // Read and write guest memory behind `kRam`, as the host sees it.
  template <typename Word = uint64_t>
  Word Peek(Gpa gpa) {
    Word word;
    std::memcpy(&word, *memory().AtHva(kRam + gpa.raw()), sizeof(word));
    return word;
  }
  template <typename Word = uint64_t>
  void Poke(Gpa gpa, Word word) {
    std::memcpy(*memory().AtHva(kRam + gpa.raw()), &word, sizeof(word));
  }

  template <typename Attempt, typename Answer>
  bool Run(int i, Attempt attempt, Answer answer, int most_exits = kMostExits) {
    return RunUntilDone(vcpu(i), cpu(i), attempt, answer, most_exits);
  }

  // Checks that no stale translation was used, and that the tables are in order.
  absl::Status Check();

 private:
  void EnablePml(int i);

  const std::unique_ptr<SimMachine> own_machine_;  // null: another's
  SimMachine& machine_;
  std::optional<OracleHook> hook_;
  std::unique_ptr<Vm> vm_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::vector<Hpa> pml_;  // of each CPU, if the engine finds writes by it
};

// Describes a hypervisor in the guest whose own guest runs on the tables at `eptp`.
NestedContext NestedOn(Backend& backend, Eptp eptp);
// Describes a guest in 64-bit mode with write protection and no-execute.
GuestControls FourLevelPaging();

}  // namespace tdp

#endif  // TDP_TESTS_WORLD_SIM_WORLD_H_
