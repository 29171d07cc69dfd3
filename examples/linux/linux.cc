// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A thin hypervisor for Debian's own Linux on bare metal: without an operating system and without a
// C library, on the freestanding core. `./run linux` boots it under Bochs.
//
// The code that every embedder writes comes first: slots (linux_guest.cc), the run loop and the
// exit handler (linux_cpu.cc). Of the rest, linux_image.cc is Linux's boot protocol, and host.cc
// and a file for each scenario are what is done to Linux's memory while it runs.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/boot/bare.h"
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

// A Linux whose memory is not its own ends in one of three ways: it complains, or the host's copy
// differs; it hangs; or it goes astray and asks the host for what no Linux asks for.
bool WasNoticed(const absl::Status& end) {
  return absl::IsDataLoss(end) || absl::IsDeadlineExceeded(end) || absl::IsUnimplemented(end);
}

absl::Status Main(std::string_view name, const vtx::Arguments& arguments) {
  TDP_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> kernel, arguments.FindFile("kernel"));
  TDP_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> initramfs, arguments.FindFile("initramfs"));
  TDP_ASSIGN_OR_RETURN(const uint64_t seed, arguments.FindNumber("seed", 1));
  vtx::SetInterruptHandler(vtx::kNmiVector, &vtx::tdp_vmx_nmi_entry);
  vtx::FrameArena arena(vtx::TakeMemory(kHostMemory, MiB(2)), kHostMemory);
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<vtx::VmxCpu> cpu, vtx::VmxCpu::Enable(arena));
  TDP_ASSIGN_OR_RETURN(const Capabilities capabilities, vtx::DecodeCapabilities(cpu->msrs(), 0));
  Host host(arena, capabilities);
  TDP_ASSIGN_OR_RETURN(ScenarioPlan plan, PlanScenario(name, seed));
  plan.options.is_32_bit = !Is64Bit(kernel);
  const int cpus = plan.options.cpus;
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<LinuxGuest> guest,
                       LinuxGuest::Create(host, *cpu, plan.options));
  TDP_RETURN_IF_ERROR(guest->Load(
      {kernel, initramfs,
       absl::StrCat(kCommandLine, " ", cpus == 1 ? kOneCpu : kMoreCpus, " cpus=", cpus, " passes=",
                    arguments.Find("passes", plan.passes), " ", arguments.Find("append", ""))}));
  guest->Say(absl::StrCat(name, ": ", plan.title));
  absl::Status end = guest->Run(*plan.scenario);
  guest->PrintTable();
  if (end.ok()) end = guest->vm().CheckInvariants();
  if (!plan.must_fail) return end;
  guest->Say(absl::StrCat("the end of it: ", end.ToString()));
  return WasNoticed(end) ? absl::OkStatus() : absl::InternalError("nobody noticed");
}

}  // namespace
}  // namespace tdp::linux_example

int main() {
  using namespace tdp;
  const vtx::Arguments arguments = vtx::ProgramArguments();
  const std::string_view name = arguments.Find("scenario", "list");
  if (name == "list") {
    vtx::Print(linux_example::ListScenarios());
    return 0;
  }
  const absl::Status status = linux_example::Main(name, arguments);
  vtx::Print(absl::StrCat("\nlinux: ", status.ok() ? "PASS" : status.ToString(), "\n"));
  return status.ok() ? 0 : 1;
}
