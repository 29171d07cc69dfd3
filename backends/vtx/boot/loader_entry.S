// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the loader cannot say in C++: where a processor starts, where an exception arrives, and how
// a thread begins and ends.

#include "layout.h"

        .section .start, "ax"
        .globl  loader_start
loader_start:                                   // from the ROM, on each processor, without a stack
        movl    $LOCAL_APIC_ID, %eax
        movl    (%rax), %edi
        shrl    $24, %edi
        leal    1(%rdi), %eax
        imull   $BOOT_STACK_BYTES, %eax
        leaq    boot_stacks(%rax), %rsp
        call    InitProcessor                   // (processor): its GDT, IDT, MSRs
        pushq   $DATA_SELECTOR                  // now run on that GDT's selectors
        leaq    8(%rsp), %rax
        pushq   %rax
        pushfq
        pushq   $CODE_SELECTOR
        leaq    1f(%rip), %rax
        pushq   %rax
        iretq
1:      xorl    %eax, %eax
        movl    %eax, %fs
        movl    %eax, %gs
        movl    $DATA_SELECTOR, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    $TASK_SELECTOR, %eax
        ltr     %ax
        movl    $LOCAL_APIC_ID, %eax
        movl    (%rax), %edi
        shrl    $24, %edi
        addq    $8, %rsp
        andq    $-16, %rsp
        call    StartProcessor                  // (processor): does not return
        hlt

        .text

// StartProgram(entry, stack, services): to the program's _start, with the services in RSI.
        .globl  StartProgram
StartProgram:
        movq    %rsi, %rsp
        movq    %rdx, %rsi
        xorl    %edx, %edx                      // no function for atexit
        xorl    %ebp, %ebp
        jmp     *%rdi

// ResumeFrame(frame): where a new thread starts; a system call is left here too.
        .globl  ResumeFrame
ResumeFrame:
        movq    %rdi, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        popq    %r9
        popq    %r8
        popq    %r10
        popq    %rdx
        popq    %rsi
        popq    %rdi
        popq    %rax
        popq    %rcx
        popq    %r11
        pushq   %r11
        popfq
        leaq    128(%rsp), %rsp
        jmp     *%rcx

// StopProcessor(tid, busy): clears both words and stops. Whoever waits for the first may free the
// stack that this ran on, so nothing is pushed here.
        .globl  StopProcessor
StopProcessor:
        movl    $0, (%rdi)
        movl    $0, (%rsi)
1:      cli
        hlt
        jmp     1b

// One stub a vector, 16 bytes each. Vectors for which the CPU pushes no error code get a 0.
        .set    ERROR_CODE_VECTORS, 0x00227d00  // 8, 10 to 14, 17, 21

        .balign 16
        .globl  exception_stubs
exception_stubs:
        .set    vector, 0
        .rept   32
        .balign 16
        .ifeq   (ERROR_CODE_VECTORS >> vector) & 1
        pushq   $0
        .endif
        pushq   $vector
        jmp     exception_common
        .set    vector, vector + 1
        .endr

exception_common:
        movq    %rsp, %rdi
        movq    %rbp, %rsi
        andq    $-16, %rsp
        call    ExceptionInLoader
        hlt

        .bss
        .balign 16
boot_stacks:
        .skip   BOOT_STACK_BYTES * MAX_PROCESSORS

        .section .note.GNU-stack, "", @progbits
