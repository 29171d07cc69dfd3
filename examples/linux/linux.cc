// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A thin hypervisor for Debian's own Linux on bare metal. `./run linux` boots it under Bochs.
//
// What every embedder writes comes first: slots (linux_guest.cc), the run loop and the exit handler
// (linux_cpu.cc). Of the rest, linux_image.cc is Linux's boot protocol, and host.cc and a file for
// each scenario are what is done to Linux's memory while it runs.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tdp/backends/vtx/boot/interrupts.h"
#include "tdp/backends/vtx/frame_arena.h"
#include "tdp/backends/vtx/vmx_cpu.h"
#include "tdp/base/status_macros.h"
#include "tdp/examples/linux/linux_guest.h"
#include "tdp/examples/linux/linux_image.h"
#include "tdp/examples/linux/scenarios.h"

namespace tdp::linux_example {
namespace {

constexpr ByteCount kHostMemory = MiB(384);
constexpr std::string_view kCommandLine =
    "console=ttyS0,115200 quiet nokaslr mitigations=off random.trust_cpu=on cryptomgr.notests "
    "reboot=t panic=-1 noapic";
constexpr std::string_view kOneCpu = "acpi=off nolapic nosmp";
// The emulator's counters are a little apart. The host takes a while to bring a CPU that runs to
// where it waits for its start-up IPI; the ten milliseconds are the SDM's own.
constexpr std::string_view kMoreCpus = "tsc=reliable cpu_init_udelay=10000";

// NAME=VALUE arguments; the runner adds those that say where the files are.
using Arguments = std::map<std::string, std::string>;

Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::pair<std::string, std::string> pair =
        absl::StrSplit(argv[i], absl::MaxSplits('=', 1));
    arguments.insert(pair);
  }
  return arguments;
}

// "ADDRESS,BYTES", hexadecimal and decimal.
absl::StatusOr<absl::Span<const uint8_t>> FindFile(const Arguments& arguments, const char* name) {
  const auto found = arguments.find(name);
  uint64_t address = 0, size = 0;
  if (found != arguments.end()) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(found->second, ',');
    if (absl::SimpleHexAtoi(parts.first, &address) && absl::SimpleAtoi(parts.second, &size)) {
      return absl::Span<const uint8_t>(reinterpret_cast<const uint8_t*>(address), size);
    }
  }
  return absl::NotFoundError(std::string(name) + ": the runner gave no such file (--file)");
}

std::string Get(const Arguments& arguments, const std::string& name, const std::string& otherwise) {
  const auto found = arguments.find(name);
  return found == arguments.end() ? otherwise : found->second;
}

absl::Status Main(const std::string& name, const Arguments& arguments) {
  TDP_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> kernel, FindFile(arguments, "kernel"));
  TDP_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> initramfs, FindFile(arguments, "initramfs"));
  vtx::SetInterruptHandler(vtx::kNmiVector, &vtx::tdp_vmx_nmi_entry);
  vtx::FrameArena arena(std::aligned_alloc(MiB(2), kHostMemory), kHostMemory);
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<vtx::VmxCpu> cpu, vtx::VmxCpu::Enable(arena));
  TDP_ASSIGN_OR_RETURN(const Capabilities capabilities, vtx::DecodeCapabilities(cpu->msrs(), 0));
  Host host(arena, capabilities);
  uint64_t seed = 1;
  if (!absl::SimpleAtoi(Get(arguments, "seed", "1"), &seed)) {
    return absl::InvalidArgumentError("seed: no number");
  }
  TDP_ASSIGN_OR_RETURN(ScenarioPlan plan, PlanScenario(name, seed));
  plan.options.is_32_bit = !Is64Bit(kernel);
  const int cpus = plan.options.cpus;
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<LinuxGuest> guest,
                       LinuxGuest::Create(host, *cpu, plan.options));
  TDP_RETURN_IF_ERROR(guest->Load(
      {kernel, initramfs,
       absl::StrCat(kCommandLine, " ", cpus == 1 ? kOneCpu : kMoreCpus, " cpus=", cpus, " passes=",
                    Get(arguments, "passes", plan.passes), " ", Get(arguments, "append", ""))}));
  guest->Say(absl::StrCat(name, ": ", plan.title));
  absl::Status end = guest->Run(*plan.scenario);
  guest->PrintTable();
  if (end.ok()) end = guest->vm().CheckInvariants();
  if (!plan.must_fail) return end;
  guest->Say(absl::StrCat("the end of it: ", end.ToString()));
  const bool was_noticed = absl::IsDataLoss(end) || absl::IsDeadlineExceeded(end);
  return was_noticed ? absl::OkStatus() : absl::InternalError("nobody noticed");
}

}  // namespace
}  // namespace tdp::linux_example

int main(int argc, char** argv) {
  using namespace tdp::linux_example;
  const Arguments arguments = Parse(argc, argv);
  const std::string name = Get(arguments, "scenario", "list");
  if (name == "list") {
    printf("%s", ListScenarios().c_str());
    return 0;
  }
  const absl::Status status = Main(name, arguments);
  printf("\nlinux: %s\n", status.ok() ? "PASS" : status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
