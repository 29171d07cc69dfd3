// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/run_report.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_format.h"
#include "tdp/backends/vtx/boot/bare.h"
#include "tdp/base/absl_mutex.h"

namespace tdp::linux_example {
namespace {

const char* NameOf(const vtx::VmExit& exit) {
  switch (exit.reason) {
    case vtx::ExitReason::kExceptionOrNmi:
      return exit.is_nmi() ? "kick (NMI)" : "page fault";
    case vtx::ExitReason::kKickedBeforeEntry:
      return "kick before entry";
    case vtx::ExitReason::kCpuid:
      return "CPUID";
    case vtx::ExitReason::kIo:
      return "serial console";
    case vtx::ExitReason::kMsrRead:
      return "RDMSR";
    case vtx::ExitReason::kMsrWrite:
      return "WRMSR";
    case vtx::ExitReason::kEptViolation:
      return "EPT violation";
    case vtx::ExitReason::kPreemptionTimer:
      return "timer of the host";
    case vtx::ExitReason::kXsetbv:
      return "XSETBV";
    case vtx::ExitReason::kControlRegister:
      return "MOV to or from CR";
    case vtx::ExitReason::kInvlpg:
      return "INVLPG";
    case vtx::ExitReason::kInvpcid:
      return "INVPCID";
    case vtx::ExitReason::kInvd:
      return "INVD";
    case vtx::ExitReason::kInitSignal:
      return "INIT";
    case vtx::ExitReason::kStartUpIpi:
      return "start-up IPI";
    case vtx::ExitReason::kPmlFull:
      return "log of pages full";
    default:
      return "other";
  }
}

template <typename... Args>
void PrintLine(const absl::FormatSpec<Args...>& format, const Args&... args) {
  vtx::Print(absl::StrFormat(format, args...) + "\n");
}

void PrintShadow(const ShadowStats& shadow, const FaultStats& faults) {
  const std::pair<const char*, uint64_t> lines[] = {
      {"page faults of Linux's own", faults.guest_faults},
      {"writes to tables emulated", faults.emulated_writes},
      {"shadow pages now", shadow.pages},
      {"  made", shadow.mmu_cache_miss},
      {"  zapped", shadow.mmu_shadow_zapped},
      {"  of these flooded", shadow.mmu_flooded},
      {"  of these for the quota", shadow.mmu_recycled},
      {"  out of sync now", shadow.mmu_unsync},
  };
  for (const auto& [name, count] : lines) PrintLine("%-28s %12d", name, count);
}

}  // namespace

void RunReport::Start() { start_ = __builtin_ia32_rdtsc(); }

uint64_t RunReport::ticks() const { return __builtin_ia32_rdtsc() - start_; }

void RunReport::Count(const vtx::VmExit& exit, uint64_t ticks) {
  const AbslMutexLock lock(mutex_);
  ExitCount& count = exits_[NameOf(exit)];
  ++count.exits;
  count.ticks += ticks;
}

void RunReport::Print(const VmStats& stats, uint64_t kicks, bool is_shadowed) const {
  FaultStats faults = past_faults_;
  faults += stats.faults;
  uint64_t exits = 0;
  for (const auto& [name, count] : exits_) exits += count.exits;
  vtx::Print("\n");
  PrintLine("%-28s %12d", "ticks", ticks());
  PrintLine("%-28s %12d", "faults answered", faults.fixed);
  PrintLine("%-28s %12d", "  spurious, to be retried", faults.spurious + faults.retry);
  const auto& leaves = faults.leaves_installed;
  PrintLine("%-28s %12d / %d / %d", "leaves of 4K / 2M / 1G", leaves[0], leaves[1], leaves[2]);
  PrintLine("%-28s %12d", "large leaves split", faults.splits);
  PrintLine("%-28s %12d", "flushes at entry", faults.flushes);
  PrintLine("%-28s %12d", "kicks sent", kicks);
  PrintLine("%-28s %12d", "tables in use", stats.tables_in_use);
  PrintLine("%-28s %12d", "exits", exits);
  for (const auto& [name, count] : exits_) {
    PrintLine("  %-26s %12d   %d ticks each", name, count.exits, count.ticks / count.exits);
  }
  if (is_shadowed) PrintShadow(stats.shadow, faults);
}

}  // namespace tdp::linux_example
