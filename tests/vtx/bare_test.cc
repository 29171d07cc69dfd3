// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The freestanding core runs in VMX operation here, on the platform that its programs on bare metal
// have: no C library, so no GoogleTest. A test is a function that ends the run where something does
// not hold.

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/vtx/boot/bare.h"
#include "tdp/backends/vtx/boot/bare_heap.h"
#include "tdp/backends/vtx/boot/interrupts.h"
#include "tdp/backends/vtx/frame_arena.h"
#include "tdp/backends/vtx/guest_state.h"
#include "tdp/backends/vtx/vmx_cpu.h"
#include "tdp/backends/vtx/vtx_backend.h"
#include "tdp/backends/vtx/vtx_vcpu.h"
#include "tdp/base/platform.h"
#include "tdp/mmu/vm.h"

namespace tdp::vtx {
namespace {

void Expect(bool holds, const char* claim) {
  if (!holds) FinishRun(claim);
}

template <typename T>
T ValueOrEnd(absl::StatusOr<T> value, const char* what) {
  if (!value.ok()) Print(value.status().ToString() + "\n");
  Expect(value.ok(), what);
  return *std::move(value);
}

void AMutexLetsOneProcessorInAtATime() {
  constexpr int kRounds = 20000;
  struct Shared {
    TdpPlatformMutex mutex = {};
    int count = 0;
  } shared;
  tdp_platform_mutex_init(&shared.mutex);
  const auto count = [](void* argument) {
    auto* mine = static_cast<Shared*>(argument);
    for (int i = 0; i < kRounds; ++i) {
      tdp_platform_mutex_lock(&mine->mutex);
      ++mine->count;
      tdp_platform_mutex_unlock(&mine->mutex);
    }
  };
  {
    const Processor other(count, &shared);
    count(&shared);
  }
  tdp_platform_mutex_destroy(&shared.mutex);
  Expect(shared.count == 2 * kRounds, "each processor counted under the mutex");
}

void AProcessorIsIdleAgainWhenItsWorkIsDone() {
  int runs = 0;
  for (int i = 0; i < 3; ++i) {
    const Processor other([](void* argument) { ++*static_cast<int*>(argument); }, &runs);
  }
  Expect(runs == 3, "one processor did three pieces of work");
}

void MemoryIsAlignedAndUsedAgain() {
  static BareHeap heap;  // too large for the stack
  constexpr size_t kBytes = size_t{1} << 20;
  const auto start = reinterpret_cast<uintptr_t>(TakeMemory(kBytes, 4096));
  heap.Init(start, start + kBytes);
  void* const small = heap.Take(100, 16);
  void* const page = heap.Take(16, 4096);
  Expect(small != page && reinterpret_cast<uintptr_t>(page) % 4096 == 0, "a page is aligned");
  heap.Return(small);
  Expect(heap.Take(128, 1) == small, "what was returned is used again");
  Expect(heap.Take(kBytes, 16) == nullptr, "more than there is is refused");
  void* const large = heap.Take(kBytes / 4, 16);
  Expect(large != nullptr, "a large piece is there");
  heap.Return(large);
  Expect(heap.Take(kBytes / 4, 4096) == large, "and is used again");
}

void Disagree(char* bytes, size_t size, size_t at) {
  ++bytes[at];
  const int greater = memcmp(bytes, bytes + size, size);
  const int less = memcmp(bytes + size, bytes, size);
  --bytes[at];
  Expect(greater > 0 && less < 0, "memcmp sees the one byte in which two pieces differ");
}

// The memory lies at every offset into a word and has every length, some of more than one turn of
// the loops.
void MemoryIsCopiedFilledAndComparedAtAnyAddress() {
  constexpr size_t kMost = 200;
  char bytes[2 * kMost + 16] = {};
  for (size_t size = 1; size < kMost; ++size) {
    char* const first = bytes + size % 8;
    memset(bytes, 0x55, sizeof(bytes));
    for (size_t i = 0; i < size; ++i) first[i] = static_cast<char>(i);
    memcpy(first + size, first, size);
    Expect(memcmp(first, first + size, size) == 0, "a copy is equal");
    Expect(first[2 * size] == 0x55, "and there is no more of it");
    Disagree(first, size, 0);
    Disagree(first, size, size - 1);
    memmove(first + 1, first, size - 1);
    Expect(memcmp(first + 1, first + size, size - 1) == 0, "a move up overlaps");
    memmove(first, first + 1, size - 1);
    Expect(memcmp(first, first + size, size - 1) == 0, "a move down overlaps");
    memset(first, 7, size);
    Expect(first[0] == 7 && first[size - 1] == 7 && first[size] == 0,
           "memset fills all and no more");
  }
}

void ACharacterIsFoundInAText() {
  const std::string_view text = "a=b=c";
  Expect(text.find('=') == 1 && text.find('c') == 4, "the first one is found, and the last");
  Expect(text.substr(0, 4).find('c') == std::string_view::npos, "nothing beyond the end");
  Expect(text.find("=c") == 3, "a word is found");
}

bool IsInvalid(const absl::StatusOr<uint64_t>& number) {
  return absl::IsInvalidArgument(number.status());
}

// The BUILD file gives these arguments.
void TheProgramFindsItsArguments() {
  const Arguments arguments = ProgramArguments();
  Expect(arguments.Find("word", "none") == "first", "of two arguments of a name the first counts");
  Expect(arguments.Find("empty", "none").empty(), "a value may be empty");
  Expect(arguments.Find("wor", "none") == "none", "a name is more than a beginning");
  Expect(arguments.Find("plain", "none") == "none", "a word without '=' has no name");
  Expect(arguments.Find("equation", "") == "a=b", "a value goes on after another '='");
  Expect(*arguments.FindNumber("number", 0) == 42, "a number");
  Expect(*arguments.FindNumber("nothing", 7) == 7, "what is not there is what it would be");
  Expect(IsInvalid(arguments.FindNumber("word", 0)), "a word is no number");
  Expect(IsInvalid(arguments.FindNumber("empty", 0)), "an empty value is no number");
  Expect(IsInvalid(arguments.FindNumber("huge", 0)), "a number has 64 bits");
}

void TheProgramFindsItsFiles() {
  const Arguments arguments = ProgramArguments();
  const auto file = ValueOrEnd(arguments.FindFile("file"), "a file");
  Expect(reinterpret_cast<uintptr_t>(file.data()) == 0x1a0000 && file.size() == 1000,
         "a file is where the runner says");
  for (const char* name : {"nothing", "word", "number", "bare", "short"}) {
    Expect(absl::IsNotFound(arguments.FindFile(name).status()), "what is no file is not found");
  }
}

// A guest reads a word again and again until it has changed, while another processor takes its page
// out of the tables, which it may do only when the guest's processor has left the guest.
class Guest {
 public:
  static constexpr Gpa kCode{0x1000}, kTables{0x10000}, kData{0x200000};
  static constexpr uint64_t kValue = 0x1234;

  Guest(FrameArena& arena, VmxCpu& cpu)
      : backend_(arena, ValueOrEnd(DecodeCapabilities(cpu.msrs(), 0), "the CPU has EPT")) {
    vm_ = ValueOrEnd(Vm::Create(backend_), "a VM");
    const Hpa ram = ValueOrEnd(arena.AllocateZeroed(MiB(4), MiB(2)), "the guest's memory");
    ram_ = arena.PointerTo<uint8_t>(ram);
    MemoryRegion region;
    region.size = MiB(4);
    region.hva = arena.HvaOf(ram);
    Expect(vm_->SetMemoryRegion(region).ok(), "a slot");
    mmu_ = ValueOrEnd(vm_->CreateVcpu(), "a vCPU of the engine's");
    vcpu_ = ValueOrEnd(VtxVcpu::Create(arena, cpu.msrs(), {}), "a vCPU of the CPU's");
    Expect(vcpu_->Load(cpu).ok(), "which is loaded");
    WriteProgram();
    backend_.SetRunningOn(mmu_->id(), cpu.apic_id());
  }
  ~Guest() {
    backend_.SetNotRunning(mmu_->id());
    vcpu_->Unload().IgnoreError();
  }

  // Runs until the guest halts.
  void Run() {
    for (;;) {
      VmExit exit;
      {
        const GuestEntry entry = mmu_->EnterGuest();
        exit = ValueOrEnd(vcpu_->Run(entry.eptp()), "an entry");
      }
      if (exit.is_kick()) {
        kicks_.fetch_add(1);
      } else if (exit.reason == ExitReason::kEptViolation) {
        const FaultResult fault = mmu_->HandleEptViolation(exit.gpa, exit.ept_qualification());
        Expect(fault.outcome == FaultOutcome::kFixed || fault.outcome == FaultOutcome::kRetry ||
                   fault.outcome == FaultOutcome::kSpurious,
               "the engine answers a violation");
        faults_.fetch_add(1);
      } else {
        Expect(exit.reason == ExitReason::kHlt, "the guest halts and does nothing else");
        return;
      }
    }
  }

  // Zaps on another processor until the guest was kicked and came back for the page some times, and
  // then lets it end.
  void Disturb() {
    constexpr int kTimes = 20;
    while (kicks_.load() < kTimes || faults_.load() < kTimes) {
      ValueOrEnd(vm_->ZapRange(Gfn::Of(kData), PageCount(1)), "a zap").Settle();
    }
    __atomic_store_n(reinterpret_cast<uint64_t*>(ram_ + kData.raw()), kValue, __ATOMIC_SEQ_CST);
  }

  Vm& vm() { return *vm_; }

 private:
  void WriteProgram() {
    // 1: mov rax, [rdi]; cmp rax, rdx; jne 1b; hlt
    constexpr uint8_t kProgram[] = {0x48, 0x8b, 0x07, 0x48, 0x39, 0xd0, 0x75, 0xf8, 0xf4};
    memcpy(ram_ + kCode.raw(), kProgram, sizeof(kProgram));
    auto* words = reinterpret_cast<uint64_t*>(ram_ + kTables.raw());
    words[0] = (kTables.raw() + 0x1000) | 3;
    words[512] = (kTables.raw() + 0x2000) | 3;
    for (uint64_t i = 0; i < 2; ++i) words[1024 + i] = i * MiB(2) | 0x83;
    Expect(vcpu_->SetState(GuestState::Long64(kCode.raw(), 0x8000, kTables.raw())).ok(), "a state");
    vcpu_->registers().rdi = kData.raw();
    vcpu_->registers().rdx = kValue;
  }

  VtxBackend backend_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<Vcpu> mmu_;
  std::unique_ptr<VtxVcpu> vcpu_;
  uint8_t* ram_ = nullptr;
  std::atomic<int> kicks_ = 0;
  std::atomic<int> faults_ = 0;
};

void AProcessorKicksAnotherOneOutOfItsGuest() {
  constexpr ByteCount kHostMemory = MiB(32);
  SetInterruptHandler(kNmiVector, &tdp_vmx_nmi_entry);
  FrameArena arena(TakeMemory(kHostMemory, MiB(2)), kHostMemory);
  const auto cpu = ValueOrEnd(VmxCpu::Enable(arena), "VMX operation");
  Guest guest(arena, *cpu);
  {
    const Processor other([](void* argument) { static_cast<Guest*>(argument)->Disturb(); }, &guest);
    guest.Run();
  }
  Expect(guest.vm().CheckInvariants().ok(), "the engine's invariants");
}

struct Test {
  const char* name;
  void (*run)();
};

constexpr Test kTests[] = {
    {"a mutex lets one processor in at a time", AMutexLetsOneProcessorInAtATime},
    {"a processor is idle again when its work is done", AProcessorIsIdleAgainWhenItsWorkIsDone},
    {"memory is aligned and used again", MemoryIsAlignedAndUsedAgain},
    {"memory is copied, filled and compared at any address",
     MemoryIsCopiedFilledAndComparedAtAnyAddress},
    {"a character is found in a text", ACharacterIsFoundInAText},
    {"the program finds its arguments", TheProgramFindsItsArguments},
    {"the program finds its files", TheProgramFindsItsFiles},
    {"a processor kicks another one out of its guest", AProcessorKicksAnotherOneOutOfItsGuest},
};

}  // namespace
}  // namespace tdp::vtx

int main() {
  for (const tdp::vtx::Test& test : tdp::vtx::kTests) {
    tdp::vtx::Print(absl::StrFormat("[ RUN  ] %s\n", test.name));
    test.run();
    tdp::vtx::Print(absl::StrFormat("[   OK ] %s\n", test.name));
  }
  return 0;
}
