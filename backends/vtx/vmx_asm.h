// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The functions of vmx_asm.S. They run in ring 0. Use the classes above them: `vmx_instructions.h`
// turns results into words, and `VmxCpu` and `VtxVcpu` keep the rules of use.

#ifndef TDP_BACKENDS_VTX_VMX_ASM_H_
#define TDP_BACKENDS_VTX_VMX_ASM_H_

#include <cstdint>

namespace tdp::vtx {

// The guest registers that the VMCS does not hold. vmx_asm.S knows the offsets.
struct GuestRegisters {
  uint64_t rax = 0, rcx = 0, rdx = 0, rbx = 0;
  uint64_t cr2 = 0;  // where rsp would be: that one is in the VMCS
  uint64_t rbp = 0, rsi = 0, rdi = 0;
  uint64_t r8 = 0, r9 = 0, r10 = 0, r11 = 0, r12 = 0, r13 = 0, r14 = 0, r15 = 0;
};
static_assert(sizeof(GuestRegisters) == 16 * sizeof(uint64_t));

// Tells how a VMX instruction ended (SDM 31.2): VMfailInvalid has no error number, VMfailValid has
// one.
enum class VmxResult : int { kSucceed = 0, kFailInvalid = 1, kFailValid = 2 };

// tdp_vmx_enter's further answer: a kick came first, the guest did not run.
inline constexpr int kVmxEnterKicked = 3;

// Tells what %gs points to on each CPU in VMX operation.
struct VmxCpuLocal {
  uint8_t kick_pending = 0;  // set by NMI, cleared by whoever acts on it
};

struct InveptDescriptor {
  uint64_t eptp = 0;
  uint64_t reserved = 0;
};

struct InvvpidDescriptor {
  uint64_t vpid = 0;  // 16 bits, the rest reserved
  uint64_t linear_address = 0;
};

// MSRs that more than one file reads (SDM vol. 4, 2.1).
inline constexpr uint32_t kMsrFeatureControl = 0x3a;
inline constexpr uint32_t kMsrGsBase = 0xc0000101;

extern "C" {

VmxResult tdp_vmxon(const uint64_t* region_hpa);
VmxResult tdp_vmxoff();
VmxResult tdp_vmclear(const uint64_t* vmcs_hpa);
VmxResult tdp_vmptrld(const uint64_t* vmcs_hpa);
VmxResult tdp_vmread(uint64_t field, uint64_t* value);
VmxResult tdp_vmwrite(uint64_t field, uint64_t value);
VmxResult tdp_invept(uint64_t type, const InveptDescriptor* descriptor);
VmxResult tdp_invvpid(uint64_t type, const InvvpidDescriptor* descriptor);

// Runs the guest of the current VMCS until its next exit: VMLAUNCH, or VMRESUME if `launched`.
// Returns 0 after an exit, a `VmxResult` if the entry failed, `kVmxEnterKicked` if this CPU's
// `VmxCpuLocal::kick_pending` is set or becomes so before the entry. %gs points to a `VmxCpuLocal`.
int tdp_vmx_enter(GuestRegisters* registers, int launched);
// A VM exit arrives here: this is the VMCS's host RIP. Not to be called.
void tdp_vmx_exit();

// An NMI handler for an interrupt gate: notes the kick, and aborts an entry under way. Not to be
// called. A kernel with a handler of its own does the same two things there.
void tdp_vmx_nmi_entry();
// Executes an IRET: after an exit that an NMI caused, NMIs are blocked until one.
void tdp_unblock_nmi();

uint64_t tdp_rdmsr(uint32_t msr);
void tdp_wrmsr(uint32_t msr, uint64_t value);
uint64_t tdp_read_cr0();
void tdp_write_cr0(uint64_t value);
uint64_t tdp_read_cr3();
uint64_t tdp_read_cr4();
void tdp_write_cr4(uint64_t value);
// ES CS SS DS FS GS TR.
void tdp_read_selectors(uint16_t selectors[7]);
// GDT, IDT.
void tdp_read_table_bases(uint64_t bases[2]);
// x87, SSE and (if `xsave`) AVX state. `area` is 64-byte aligned, 4 KiB, zero at first.
void tdp_save_vector_state(void* area, int xsave);
void tdp_load_vector_state(const void* area, int xsave);

// One byte from and to an I/O port.
uint8_t tdp_in8(uint16_t port);
void tdp_out8(uint16_t port, uint8_t value);
// XCR0; needs CR4.OSXSAVE.
uint64_t tdp_read_xcr0();
void tdp_write_xcr0(uint64_t value);
// DR0 DR1 DR2 DR3 DR6.
void tdp_save_debug_registers(uint64_t registers[5]);
void tdp_load_debug_registers(const uint64_t registers[5]);

}  // extern "C"

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_VMX_ASM_H_
