// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Each processor's descriptor tables and control registers, and how one starts another.

#include "loader.h"

namespace boot {
namespace {

constexpr uint64_t kEferNoExecute = 1 << 11;
constexpr uint64_t kCr0Monitor = 1 << 1;
constexpr uint64_t kCr0Emulate = 1 << 2;
constexpr uint64_t kCr0NumericError = 1 << 5;
constexpr uint64_t kCr0WriteProtect = 1 << 16;
constexpr uint64_t kCr4SseMask = 1 << 9 | 1 << 10;
constexpr uint64_t kCr4XSave = 1 << 18;
constexpr uint32_t kCpuidXSave = 1 << 26;
constexpr uint32_t kCpuidAvx = 1 << 28;

constexpr int kVectors = 32;
constexpr int kNmiVector = 2;

struct [[gnu::packed]] TaskState {
  uint32_t reserved0;
  uint64_t rsp[3];
  uint64_t reserved1;
  uint64_t ist[7];
  uint8_t reserved2[10];
  uint16_t io_map;
};

struct Gate {
  uint64_t low;
  uint64_t high;
};

struct [[gnu::packed]] TablePointer {
  uint16_t limit;
  uint64_t base;
};

struct Processor {
  uint64_t gdt[5];
  TaskState task;
  ThreadStart thread;
  uint32_t busy;
  uint32_t no_tid;
  alignas(16) char exception_stack[4096];
  alignas(16) char nmi_stack[4096];
};

Processor processors[MAX_PROCESSORS];
Gate interrupts[kVectors];

Gate InterruptGate(uint64_t handler, uint64_t ist) {
  const uint64_t type = 0x8e00;
  return {(handler & 0xffff) | uint64_t{CODE_SELECTOR} << 16 | ist << 32 | type << 32 |
              (handler & 0xffff0000) << 32,
          handler >> 32};
}

// An NMI may come inside an exception handler: it has a stack of its own.
void FillInterrupts() {
  for (int vector = 0; vector < kVectors; ++vector) {
    const uint64_t stub = reinterpret_cast<uint64_t>(exception_stubs) + 16 * vector;
    interrupts[vector] = InterruptGate(stub, vector == kNmiVector ? 2 : 1);
  }
}

void FillDescriptors(Processor& self) {
  const auto base = reinterpret_cast<uint64_t>(&self.task);
  self.task.ist[0] =
      reinterpret_cast<uint64_t>(self.exception_stack + sizeof(self.exception_stack));
  self.task.ist[1] = reinterpret_cast<uint64_t>(self.nmi_stack + sizeof(self.nmi_stack));
  self.task.io_map = sizeof(TaskState);
  self.gdt[1] = 0x00af9b000000ffff;  // 64-bit code
  self.gdt[2] = 0x00cf93000000ffff;  // data
  self.gdt[3] = (sizeof(TaskState) - 1) | (base & 0xffffff) << 16 | uint64_t{0x89} << 40 |
                (base >> 24 & 0xff) << 56;
  self.gdt[4] = base >> 32;
}

void LoadTables(Processor& self) {
  const TablePointer gdt = {sizeof(self.gdt) - 1, reinterpret_cast<uint64_t>(self.gdt)};
  const TablePointer idt = {sizeof(interrupts) - 1, reinterpret_cast<uint64_t>(interrupts)};
  asm volatile("lgdt %0; lidt %1" ::"m"(gdt), "m"(idt));
}

void EnableVectorRegisters() {
  uint64_t cr0;
  uint64_t cr4;
  asm volatile("mov %%cr0, %0" : "=r"(cr0));
  asm volatile("mov %%cr4, %0" : "=r"(cr4));
  cr0 = (cr0 & ~kCr0Emulate) | kCr0Monitor | kCr0NumericError | kCr0WriteProtect;
  uint32_t eax = 1;
  uint32_t ecx = 0;
  uint32_t ebx;
  uint32_t edx;
  asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  cr4 |= kCr4SseMask;
  if ((ecx & kCpuidXSave) != 0) cr4 |= kCr4XSave;
  asm volatile("mov %0, %%cr0; mov %1, %%cr4" ::"r"(cr0), "r"(cr4));
  if ((ecx & kCpuidXSave) != 0) {
    asm volatile("xsetbv" ::"c"(0), "a"((ecx & kCpuidAvx) != 0 ? 7 : 3), "d"(0));
  }
  asm volatile("fninit");
}

void SendInterrupt(int processor, uint32_t command) {
  *reinterpret_cast<volatile uint32_t*>(LOCAL_APIC_COMMAND_HIGH) = processor << 24;
  *reinterpret_cast<volatile uint32_t*>(LOCAL_APIC_COMMAND_LOW) = command;
}

// A processor takes an INIT a little after it was sent, and loses a start-up IPI that overtakes it.
void WaitForInit() {
  constexpr uint64_t kTicks = 20000;
  const uint64_t start = ReadTimeStamp();
  while (ReadTimeStamp() - start < kTicks) Pause();
}

}  // namespace

int CurrentProcessor() {
  return static_cast<int>(*reinterpret_cast<volatile uint32_t*>(LOCAL_APIC_ID) >> 24);
}

void SetClearAtExit(uint32_t* where) {
  processors[CurrentProcessor()].thread.clear_at_exit = where;
}

int StartThread(int count, const ThreadStart& start) {
  constexpr uint32_t kInit = 0x4500;
  constexpr uint32_t kStartUpAtRom = 0x46f0;  // the vector is the page: 0xf0000
  for (int i = 1; i < count && i < MAX_PROCESSORS; ++i) {
    uint32_t idle = 0;
    if (!__atomic_compare_exchange_n(&processors[i].busy, &idle, 1, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED)) {
      continue;
    }
    processors[i].thread = start;
    SendInterrupt(i, kInit);
    WaitForInit();
    SendInterrupt(i, kStartUpAtRom);
    return i;
  }
  return -1;
}

void ExitThread() {
  Processor& self = processors[CurrentProcessor()];
  uint32_t* tid = self.thread.clear_at_exit;
  StopProcessor(tid != nullptr ? tid : &self.no_tid, &self.busy);
}

}  // namespace boot

extern "C" void InitProcessor(int processor) {
  boot::Processor& self = boot::processors[processor];
  if (processor == 0) boot::FillInterrupts();
  boot::FillDescriptors(self);
  boot::LoadTables(self);
  boot::EnableVectorRegisters();
  boot::WriteMsr(boot::kMsrEfer, boot::ReadMsr(boot::kMsrEfer) | boot::kEferNoExecute);
  boot::InitProgramProcessor();
}

namespace boot {
[[noreturn]] void LoadProgram();
}

extern "C" void StartProcessor(int processor) {
  if (processor == 0) boot::LoadProgram();
  const boot::ThreadStart& thread = boot::processors[processor].thread;
  boot::WriteMsr(boot::kMsrFsBase, thread.thread_pointer);
  ResumeFrame(thread.frame);
}

// Lies as exception_common left it: the stub pushed the vector and, where the CPU did not, an error
// code.
struct ExceptionFrame {
  uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

extern "C" void ExceptionInLoader(const ExceptionFrame* frame, uint64_t rbp) {
  uint64_t cr2;
  asm volatile("mov %%cr2, %0" : "=r"(cr2));
  const struct {
    const char* name;
    uint64_t value;
  } words[] = {{"vector ", frame->vector},
               {" error ", frame->error},
               {" rip ", frame->rip},
               {" rsp ", frame->rsp},
               {" rbp ", rbp},
               {" cr2 ", cr2}};
  for (const auto& word : words) {
    boot::Print(word.name);
    boot::PrintHex(word.value);
  }
  boot::Print("\n");
  boot::Finish("unexpected exception on the host side");
}
