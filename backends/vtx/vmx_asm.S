// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Every instruction of the VT-x backend that C++ cannot say. vmx_asm.h documents each function.

        .set    VMCS_HOST_RSP, 0x6c14

        .text

// VMX instructions tell by CF (no current VMCS to hold an error) and ZF (an error number is there).
        .macro  return_vmx_result
        movl    $1, %ecx
        movl    $2, %edx
        movl    $0, %eax
        cmovzl  %edx, %eax
        cmovcl  %ecx, %eax
        ret
        .endm

        .macro  function name
        .globl  \name
        .type   \name, @function
        .balign 16
\name:
        .endm

        function tdp_vmxon
        vmxon   (%rdi)
        return_vmx_result

        function tdp_vmxoff
        vmxoff
        return_vmx_result

        function tdp_vmclear
        vmclear (%rdi)
        return_vmx_result

        function tdp_vmptrld
        vmptrld (%rdi)
        return_vmx_result

        function tdp_vmread
        vmread  %rdi, (%rsi)
        return_vmx_result

        function tdp_vmwrite
        vmwrite %rsi, %rdi
        return_vmx_result

        function tdp_invept
        invept  (%rsi), %rdi
        return_vmx_result

        function tdp_invvpid
        invvpid (%rsi), %rdi
        return_vmx_result

// int tdp_vmx_enter(GuestRegisters* registers, int launched)
// The order of GuestRegisters: rax rcx rdx rbx cr2 rbp rsi rdi r8 ... r15.
        function tdp_vmx_enter
        pushq   %rbp
        pushq   %rbx
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        pushq   %rdi
        movl    $VMCS_HOST_RSP, %eax
        vmwrite %rsp, %rax
        jbe     vmx_entry_failed
        movq    0x20(%rdi), %rax
        movq    %rax, %cr2

        // From here to the entry an NMI must not pass unseen: if one comes after the look at the
        // flag, tdp_vmx_nmi_entry makes this code go on at vmx_entry_kicked.
vmx_entry_window:
        cmpb    $0, %gs:0
        jne     vmx_entry_kicked
        testl   %esi, %esi
        movq    0x00(%rdi), %rax                // none of these changes the flags
        movq    0x08(%rdi), %rcx
        movq    0x10(%rdi), %rdx
        movq    0x18(%rdi), %rbx
        movq    0x28(%rdi), %rbp
        movq    0x30(%rdi), %rsi
        movq    0x40(%rdi), %r8
        movq    0x48(%rdi), %r9
        movq    0x50(%rdi), %r10
        movq    0x58(%rdi), %r11
        movq    0x60(%rdi), %r12
        movq    0x68(%rdi), %r13
        movq    0x70(%rdi), %r14
        movq    0x78(%rdi), %r15
        movq    0x38(%rdi), %rdi
        jnz     1f
        vmlaunch
        jmp     vmx_entry_failed
1:      vmresume
vmx_entry_window_end:

vmx_entry_failed:
        movl    $1, %eax
        jc      2f
        movl    $2, %eax
2:      jmp     vmx_return

vmx_entry_kicked:
        movl    $3, %eax
vmx_return:
        addq    $8, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbx
        popq    %rbp
        ret

        function tdp_vmx_exit                   // the VMCS's host RIP
        xchgq   %rdi, (%rsp)
        movq    %rax, 0x00(%rdi)
        movq    %rcx, 0x08(%rdi)
        movq    %rdx, 0x10(%rdi)
        movq    %rbx, 0x18(%rdi)
        movq    %cr2, %rax
        movq    %rax, 0x20(%rdi)
        movq    %rbp, 0x28(%rdi)
        movq    %rsi, 0x30(%rdi)
        movq    (%rsp), %rax
        movq    %rax, 0x38(%rdi)
        movq    %r8, 0x40(%rdi)
        movq    %r9, 0x48(%rdi)
        movq    %r10, 0x50(%rdi)
        movq    %r11, 0x58(%rdi)
        movq    %r12, 0x60(%rdi)
        movq    %r13, 0x68(%rdi)
        movq    %r14, 0x70(%rdi)
        movq    %r15, 0x78(%rdi)
        xorl    %eax, %eax
        jmp     vmx_return

        function tdp_vmx_nmi_entry              // an interrupt gate points here
        pushq   %rax
        pushq   %rcx
        movb    $1, %gs:0
        movq    16(%rsp), %rax                  // where the NMI struck
        leaq    vmx_entry_window(%rip), %rcx
        cmpq    %rcx, %rax
        jb      3f
        leaq    vmx_entry_window_end(%rip), %rcx
        cmpq    %rcx, %rax
        jae     3f
        leaq    vmx_entry_kicked(%rip), %rcx
        movq    %rcx, 16(%rsp)
3:      popq    %rcx
        popq    %rax
        iretq

        function tdp_unblock_nmi
        movq    %rsp, %rax
        movl    %ss, %ecx
        pushq   %rcx
        pushq   %rax
        pushfq
        movl    %cs, %ecx
        pushq   %rcx
        leaq    4f(%rip), %rcx
        pushq   %rcx
        iretq
4:      ret

        function tdp_rdmsr
        movl    %edi, %ecx
        rdmsr
        shlq    $32, %rdx
        orq     %rdx, %rax
        ret

        function tdp_wrmsr
        movl    %edi, %ecx
        movl    %esi, %eax
        movq    %rsi, %rdx
        shrq    $32, %rdx
        wrmsr
        ret

        function tdp_read_cr0
        movq    %cr0, %rax
        ret

        function tdp_write_cr0
        movq    %rdi, %cr0
        ret

        function tdp_read_cr3
        movq    %cr3, %rax
        ret

        function tdp_read_cr4
        movq    %cr4, %rax
        ret

        function tdp_write_cr4
        movq    %rdi, %cr4
        ret

        function tdp_read_selectors             // es cs ss ds fs gs tr
        movw    %es, 0(%rdi)
        movw    %cs, 2(%rdi)
        movw    %ss, 4(%rdi)
        movw    %ds, 6(%rdi)
        movw    %fs, 8(%rdi)
        movw    %gs, 10(%rdi)
        str     12(%rdi)
        ret

        function tdp_read_table_bases           // gdt idt
        subq    $16, %rsp
        sgdt    (%rsp)
        movq    2(%rsp), %rax
        movq    %rax, (%rdi)
        sidt    (%rsp)
        movq    2(%rsp), %rax
        movq    %rax, 8(%rdi)
        addq    $16, %rsp
        ret

        function tdp_save_vector_state
        testl   %esi, %esi
        jz      5f
        movl    $7, %eax
        xorl    %edx, %edx
        xsave64 (%rdi)
        ret
5:      fxsave64 (%rdi)
        ret

        function tdp_load_vector_state
        testl   %esi, %esi
        jz      6f
        movl    $7, %eax
        xorl    %edx, %edx
        xrstor64 (%rdi)
        ret
6:      fxrstor64 (%rdi)
        ret

        function tdp_in8
        movl    %edi, %edx
        xorl    %eax, %eax
        inb     %dx, %al
        ret

        function tdp_out8
        movl    %edi, %edx
        movl    %esi, %eax
        outb    %al, %dx
        ret

        function tdp_read_xcr0
        xorl    %ecx, %ecx
        xgetbv
        shlq    $32, %rdx
        orq     %rdx, %rax
        ret

        function tdp_write_xcr0
        xorl    %ecx, %ecx
        movl    %edi, %eax
        movq    %rdi, %rdx
        shrq    $32, %rdx
        xsetbv
        ret

        function tdp_save_debug_registers       // dr0 dr1 dr2 dr3 dr6
        movq    %dr0, %rax
        movq    %rax, 0(%rdi)
        movq    %dr1, %rax
        movq    %rax, 8(%rdi)
        movq    %dr2, %rax
        movq    %rax, 16(%rdi)
        movq    %dr3, %rax
        movq    %rax, 24(%rdi)
        movq    %dr6, %rax
        movq    %rax, 32(%rdi)
        ret

        function tdp_load_debug_registers
        movq    0(%rdi), %rax
        movq    %rax, %dr0
        movq    8(%rdi), %rax
        movq    %rax, %dr1
        movq    16(%rdi), %rax
        movq    %rax, %dr2
        movq    24(%rdi), %rax
        movq    %rax, %dr3
        movq    32(%rdi), %rax
        movq    %rax, %dr6
        ret

        .section .note.GNU-stack, "", @progbits
