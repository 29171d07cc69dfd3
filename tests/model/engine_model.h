// SPDX-License-Identifier: Apache-2.0
//
// The engine and the software CPU against a flat map of pages.

#ifndef TDP_TESTS_MODEL_ENGINE_MODEL_H_
#define TDP_TESTS_MODEL_ENGINE_MODEL_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "tdp/backends/sim/flush_oracle.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/backends/sim/sim_backend.h"
#include "tdp/mmu/entry_ref.h"
#include "tdp/mmu/vm.h"
#include "tests/model/engine_op.h"

namespace tdp::model {

// A guest of 64 MiB on two CPUs that keep every translation as long as the architecture lets them.
// The model beside it knows, for each guest page, the slot that holds it; the host's own page table
// says which frame stands behind. An access must reach exactly that frame, or be MMIO exactly where
// the model has no memory for it.
class EngineModel : public EntryStoreHook {
 public:
  // What the machine does wrong on purpose, to show that the model finds it.
  enum class Mistake : uint8_t { kNone, kForgetsFlushes };

  explicit EngineModel(const VmOptions& options = {}, int host_order = 9,
                       Mistake mistake = Mistake::kNone);
  ~EngineModel() override;

  // Makes the operation, out-of-range numbers brought into range. Returns what went wrong, or OK.
  absl::Status Apply(const Op& op);

  // The engine's own invariants, and the flush oracle's reports so far.
  absl::Status Check();

  uint64_t accesses_mapped() const { return accesses_mapped_; }
  uint64_t accesses_mmio() const { return accesses_mmio_; }
  uint64_t collapsed() const { return collapsed_; }

 private:
  static constexpr int kCpus = 2;
  static constexpr uint64_t kGuestPages = MiB(64) >> kPageShift;
  static constexpr uint64_t kHostPages = MiB(48) >> kPageShift;
  static constexpr uint32_t kSlots = 6;
  static constexpr Hva kHost{GiB(512)};

  struct Slot {
    uint64_t page;
    uint64_t count;
    uint64_t host;
    uint32_t flags;
  };

  void OnStore(const uint64_t* where, EptEntry before, EptEntry after) override;

  absl::Status Access(const Op& op);
  absl::Status SetSlot(const Op& op);
  absl::Status DeleteSlot(const Op& op);
  absl::Status Zap(const Op& op);
  absl::Status HostChange(const Op& op);
  absl::Status NewVcpu(const Op& op);
  absl::Status Age(const Op& op);
  absl::Status Split(const Op& op);
  absl::Status Collapse(const Op& op);
  absl::Status Prefault(const Op& op);

  bool IsUnsupported(const absl::Status& status) const;
  bool HasMemory(uint64_t page, bool write) const;
  void NoteAccess(uint64_t page, bool write);
  // Mappings may be gone: nothing is known of A and D any more.
  void ForgetUse();
  bool UsedInHostRange(uint64_t host, uint64_t count) const;
  absl::Status CheckDirtyKept();

  const Slot* SlotAt(uint64_t page) const;
  bool OverlapsAnother(uint32_t id, uint64_t page, uint64_t count) const;
  absl::StatusOr<std::optional<Hpa>> AccessUntilDone(int cpu, Gpa gpa, sim::AccessKind kind);

  sim::HostMemory memory_;
  sim::FlushOracle oracle_;
  std::unique_ptr<sim::SimBackend> backend_;
  std::unique_ptr<Vm> vm_;
  std::array<std::unique_ptr<Vcpu>, kCpus> vcpus_;
  std::map<uint32_t, Slot> slots_;
  std::set<uint64_t> used_;     // pages that the guest used since they were aged
  std::set<uint64_t> written_;  // pages that it wrote
  uint64_t collapsed_ = 0;
  uint64_t accesses_mapped_ = 0;
  uint64_t accesses_mmio_ = 0;
};

}  // namespace tdp::model

#endif  // TDP_TESTS_MODEL_ENGINE_MODEL_H_
