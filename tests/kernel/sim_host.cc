// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/sim_host.h"

#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tests/world/sim_backends.h"

namespace tdp::kernel {
namespace {

constexpr Hva kHost{GiB(512)};

sim::SimBackendOptions Cpus(int cpus, sim::FlushOracle* oracle) {
  sim::SimBackendOptions options;
  options.cpus = cpus;
  options.cpu.policy = sim::CachePolicy::kAdversarial;
  options.oracle = oracle;
  return options;
}

std::unique_ptr<sim::SimBackend> MakeBackend(sim::HostMemory& memory, sim::FlushOracle* oracle,
                                             const HostOptions& options) {
  // Who forgets flushes is to be found out by the guest, not by the oracle.
  if (options.mistake == Mistake::kForgetsFlushes) {
    return std::make_unique<ForgetfulBackend>(memory, Cpus(options.cpus, nullptr));
  }
  return std::make_unique<sim::SimBackend>(memory, Cpus(options.cpus, oracle));
}

}  // namespace

SimHost::SimHost(const HostOptions& options)
    : options_(options),
      memory_({.size = GiB(1), .shuffled = true, .fragmentation = 0.3}),
      oracle_({.accessed_clear_owed = false}),  // as `Vm::AgeHostRange` decides
      backend_(MakeBackend(memory_, &oracle_, options)) {
  SetEntryStoreHook(this);
  vm_ = *Vm::Create(*backend_, options.vm);
  TDP_CHECK(memory_.Map(kHost, kGuestBytes, {.order = options.host_order}).ok());
  TDP_CHECK(vm_->SetMemoryRegion({.gpa = Gpa(0), .size = kGuestBytes, .hva = kHost}).ok());
  for (int i = 0; i < options.cpus; ++i) vcpus_.push_back(*vm_->CreateVcpu());
}

SimHost::~SimHost() {
  vcpus_.clear();
  vm_.reset();
  SetEntryStoreHook(nullptr);
}

void SimHost::OnStore(const uint64_t* where, EptEntry before, EptEntry after) {
  const Hpa entry(reinterpret_cast<uintptr_t>(where) - memory_.direct_map_offset());
  oracle_.OnStore(entry, before.raw(), after.raw());
}

uint64_t SimHost::Peek(Gpa gpa, unsigned bytes) {
  uint64_t value = 0;
  std::memcpy(&value, *memory_.AtHva(kHost + gpa.raw()), bytes);
  return value;
}

void SimHost::Poke(Gpa gpa, unsigned bytes, uint64_t value) {
  std::memcpy(*memory_.AtHva(kHost + gpa.raw()), &value, bytes);
}

uint64_t SimHost::Perform(Hpa hpa, const MachineAccess& access) {
  const sim::PhysicalMemory physical = memory_.physical();
  if (sim::Writes(access.kind)) {
    if (access.bytes == 4) {
      physical.Store(hpa.raw(), static_cast<uint32_t>(access.value));
    } else {
      physical.Store(hpa.raw(), access.value);
    }
    return 0;
  }
  return access.bytes == 4 ? physical.Load<uint32_t>(hpa.raw()) : physical.Load(hpa.raw());
}

absl::Status SimHost::MoveMemory(unsigned what, Hva start, ByteCount size) {
  TDP_RETURN_IF_ERROR(vm_->BeginHostInvalidation(start, size));
  absl::Status status;
  if (what == 0) {
    status = memory_.Migrate(start, size);
  } else {
    status = memory_.Protect(start, size, what == 1);
  }
  vm_->EndHostInvalidation();
  return status;
}

absl::Status SimHost::SetLogging(bool on) {
  is_logging_ = on;
  return vm_->SetMemoryRegion(
      {.flags = on ? kSlotLogDirtyPages : 0, .gpa = Gpa(0), .size = kGuestBytes, .hva = kHost});
}

absl::Status SimHost::Disturb(unsigned what, uint64_t where) {
  // Pieces of 64 KiB where most of the guest's frames lie.
  const Hva start = kHost + where % 16 * KiB(64);
  absl::Status status;
  switch (what % 6) {
    case 0:
    case 1:
      status = MoveMemory(0, start, KiB(64));
      break;
    case 2: {
      absl::StatusOr<PendingFlush> flush = vm_->ZapRange(Gfn(where % 16 * 16), PageCount(16));
      TDP_RETURN_IF_ERROR(flush.status());
      flush->Settle();
      break;
    }
    case 3: {
      absl::StatusOr<PendingFlush> flush = vm_->ZapAll();
      TDP_RETURN_IF_ERROR(flush.status());
      flush->Settle();
      break;
    }
    case 4:
      status = SetLogging(!is_logging_);
      break;
    default:
      if (is_logging_) status = vm_->TakeDirtyLog(0, [](uint64_t, uint64_t) {});
      break;
  }
  oracle_.SettleAll();
  return status;
}

absl::Status SimHost::Check() {
  if (oracle_.report_count() != 0) {
    return absl::InternalError(
        absl::StrCat("a stale translation was used: ", oracle_.reports()[0].DebugString()));
  }
  return vm_->CheckInvariants();
}

}  // namespace tdp::kernel
