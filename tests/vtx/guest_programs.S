// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guests of these tests run these programs, which are position-independent and end with HLT;
// guest_programs.h names them and says what they expect in which register.

        .section .rodata
        .macro  program name
        .globl  guest_\name
        .globl  guest_\name\()_end
        .balign 16
guest_\name:
        .endm

        .code64

        program halt
        hlt
guest_halt_end:

        program write_pages
1:      movq    %rax, (%rdi)
        addq    $4096, %rdi
        addq    %rsi, %rax
        decq    %rcx
        jnz     1b
        hlt
guest_write_pages_end:

        program read_pages
        xorl    %eax, %eax
1:      addq    (%rdi), %rax
        addq    $4096, %rdi
        decq    %rcx
        jnz     1b
        hlt
guest_read_pages_end:

        program read_rounds
1:      movq    %rdi, %r8
        movq    %rcx, %r9
2:      addq    (%r8), %rax
        addq    %rsi, %r8
        decq    %r9
        jnz     2b
        decq    %rdx
        jnz     1b
        hlt
guest_read_rounds_end:

        program scatter
        movabsq $6364136223846793005, %r8
        movabsq $1442695040888963407, %r9
1:      imulq   %r8, %rax
        addq    %r9, %rax
        movq    %rax, %rdx
        shrq    $20, %rdx
        andq    %rsi, %rdx
        movq    %rax, (%rdi,%rdx)
        decq    %rcx
        jnz     1b
        hlt
guest_scatter_end:

        program keep_vector
        movq    %rax, %xmm7
        movq    %rax, (%rdi)
        movq    %xmm7, %rbx
        hlt
guest_keep_vector_end:

        // Follows a list of (address, value): bit 0 of the address means read, bit 1 VMCALL
        // instead, 0 ends it.
        program script
1:      movq    (%rsi), %rdi
        movq    8(%rsi), %rax
        addq    $16, %rsi
        testq   %rdi, %rdi
        jz      4f
        btrq    $0, %rdi
        jc      2f
        btrq    $1, %rdi
        jc      3f
        movq    %rax, (%rdi)
        jmp     1b
2:      movq    (%rdi), %rdx
        jmp     1b
3:      vmcall
        jmp     1b
4:      hlt
guest_script_end:

        program call
        call    *%rdi
        hlt
guest_call_end:

        program print
1:      movb    (%rsi), %al
        testb   %al, %al
        jz      2f
        movb    %al, (%rdi)
        incq    %rsi
        jmp     1b
2:      movb    1(%rdi), %bl
        hlt
guest_print_end:

        program wait_for
1:      incq    (%rsi)
        movq    (%rdi), %rdx
        cmpq    %rax, %rdx
        jne     1b
        hlt
guest_wait_for_end:

        // Increments a word for ever.
        program count_forever
1:      incq    (%rdi)
        jmp     1b
guest_count_forever_end:

        program switch_views
        movq    (%rdi), %rdx
        xorl    %eax, %eax
        vmfunc
        movq    (%rdi), %rbx
        hlt
guest_switch_views_end:

        // Two writes; rsi and rdi may be handled by a #VE handler that moves past them.
        program write_two
        movq    $1, (%rdi)
        movq    $2, (%rsi)
        hlt
guest_write_two_end:

        // A #VE handler: counts in rbx, reads qualification and gpa from the information page at
        // rdx, frees the page, and skips the 7-byte MOV.
        program ve_handler
        incq    %rbx
        movl    8(%rdx), %r8d
        movq    24(%rdx), %r9
        movl    $0, 4(%rdx)
        addq    $7, (%rsp)
        iretq
guest_ve_handler_end:

        .code16
        program real_mode
        movw    $0x2000, %ax
        movw    %ax, %es
        xorw    %di, %di
        movw    $0x1234, %ax
        movw    $0x4000, %cx
        cld
        rep stosw
        movw    %es:0x7ffe, %bx
        hlt
guest_real_mode_end:

        .code32
        program flat32
1:      movl    %eax, (%edi)
        addl    $4096, %edi
        addl    $3, %eax
        decl    %ecx
        jnz     1b
        hlt
guest_flat32_end:

        // Turns paging on: cr4 in edx, cr3 in ebx; then as flat32.
        program paged32
        movl    %edx, %cr4
        movl    %ebx, %cr3
        movl    %cr0, %edx
        orl     $0x80000000, %edx
        movl    %edx, %cr0
1:      movl    %eax, (%edi)
        addl    $4096, %edi
        addl    $3, %eax
        decl    %ecx
        jnz     1b
        hlt
guest_paged32_end:

        .section .note.GNU-stack, "", @progbits
