// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guest: greets, counts the primes below 100000 with a sieve in its data slot, tries to write
// to its ROM, reads the console's counter, and halts. hypervisor.cc builds its page tables.

        .set    CONSOLE, 0x10000000             // a byte written is printed; byte 1 counts them
        .set    SIEVE, 0x400000
        .set    ROM, 0x600000
        .set    LIMIT, 100000

        .section .rodata
        .code64
        .globl  guest_start, guest_end
guest_start:
        leaq    hello(%rip), %rsi
        call    print

        movl    $2, %ebx                        // cross out the multiples of each prime
1:      cmpb    $0, SIEVE(%rbx)
        jne     3f
        movl    %ebx, %eax
        imull   %ebx, %eax
2:      cmpl    $LIMIT, %eax
        jae     3f
        movb    $1, SIEVE(%rax)
        addl    %ebx, %eax
        jmp     2b
3:      incl    %ebx
        cmpl    $317, %ebx                      // the square root of LIMIT
        jb      1b

        xorl    %eax, %eax                      // count what is left
        movl    $2, %ebx
4:      cmpb    $1, SIEVE(%rbx)
        adcl    $0, %eax
        incl    %ebx
        cmpl    $LIMIT, %ebx
        jb      4b
        call    print_number
        leaq    primes(%rip), %rsi
        call    print

        movb    $0, ROM                         // not allowed: the hypervisor ignores it
        leaq    ROM, %rsi                       // and the text there is whole
        call    print
        movzbl  CONSOLE + 1, %eax
        call    print_number
        leaq    bytes(%rip), %rsi
        call    print
        hlt

print:  movb    (%rsi), %al                     // the string at rsi
        testb   %al, %al
        jz      5f
        movb    %al, CONSOLE
        incq    %rsi
        jmp     print
5:      ret

print_number:                                   // eax, in decimal
        movl    $10, %ecx
        pushq   $0
6:      xorl    %edx, %edx
        divl    %ecx
        addl    $'0', %edx
        pushq   %rdx
        testl   %eax, %eax
        jnz     6b
7:      popq    %rax
        testl   %eax, %eax
        jz      5b
        movb    %al, CONSOLE
        jmp     7b

hello:  .asciz  "Hello from the guest.\n"
primes: .asciz  " primes below 100000.\n"
bytes:  .asciz  " bytes printed so far.\n"
guest_end:

        .section .note.GNU-stack, "", @progbits
