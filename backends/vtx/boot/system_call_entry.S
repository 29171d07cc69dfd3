// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where a system call arrives.

        .text

// The program runs in ring 0 too, so there is no other stack to go to: the handler uses the
// caller's, below its red zone. The frame is `RegisterFrame`.
        .globl  system_call_entry
system_call_entry:
        leaq    -128(%rsp), %rsp
        pushq   %r11
        pushq   %rcx
        pushq   %rax
        pushq   %rdi
        pushq   %rsi
        pushq   %rdx
        pushq   %r10
        pushq   %r8
        pushq   %r9
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rsp, %rdi
        movq    %rsp, %rbp
        andq    $-16, %rsp
        call    SystemCall
        movq    %rbp, %rdi
        jmp     ResumeFrame

        .section .note.GNU-stack, "", @progbits
