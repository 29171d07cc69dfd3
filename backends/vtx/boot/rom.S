// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The machine's firmware: from the reset vector, or from a start-up IPI, to 64-bit code at 1 MiB.
//
// 64 KiB, seen at 0xf0000 and at 4 GiB - 64 KiB. The first processor builds the page tables: the
// low 4 GiB mapped to themselves, page 0 left out so that a null pointer faults. The others only
// load them. There is no stack, and no RAM is touched before the image has been (`touch_image`).

        .set    ROM_BASE, 0xf0000
        .set    PML4, 0x1000
        .set    PDPT, 0x2000
        .set    DIRECTORIES, 0x3000             // four, one a GiB
        .set    LOW_TABLE, 0x7000               // the first 2 MiB by 4 KiB
        .set    IMAGE, 0x100000
        .set    IMAGE_END, 0x2000000

        .set    PRESENT_WRITE, 3
        .set    LARGE, 0x80
        .set    CACHE_DISABLE, 0x10
        .set    DEVICES, 0xfe000000             // the APICs' 2 MiB pages and all above

        .set    MSR_APIC_BASE, 0x1b
        .set    APIC_BASE_BSP, 0x100
        .set    MSR_EFER, 0xc0000080
        .set    EFER_LME, 0x100
        .set    CR0_PE, 1
        .set    CR0_CACHE_OFF, 0x60000000       // CD and NW, set at reset
        .set    CR0_PG, 0x80000000
        .set    CR4_PAE, 0x20

        .text
        .code16
rom_start:                                      // a start-up IPI with vector 0xf0 begins here
start16:
        cli
        lgdtl   %cs:(gdt_pointer - rom_start)
        movl    %cr0, %eax
        orl     $CR0_PE, %eax
        movl    %eax, %cr0
        ljmpl   $0x08, $start32

        .code32
start32:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $MSR_APIC_BASE, %ecx
        rdmsr
        testl   $APIC_BASE_BSP, %eax
        jz      enable_paging

        // The emulator reads the image into its memory in one piece, but gives out that memory to
        // guest addresses 128 KiB at a time as they are first touched: touch the image in order,
        // before anything else.
touch_image:
        movl    $IMAGE, %ebx
1:      movl    (%ebx), %eax
        addl    $0x20000, %ebx
        cmpl    $IMAGE_END, %ebx
        jb      1b

        cld
        xorl    %eax, %eax
        movl    $PML4, %edi
        movl    $(2 * 4096 / 4), %ecx
        rep stosl
        movl    $(PDPT | PRESENT_WRITE), PML4
        movl    $(DIRECTORIES | PRESENT_WRITE), PDPT
        movl    $(DIRECTORIES + 0x1000 | PRESENT_WRITE), PDPT + 8
        movl    $(DIRECTORIES + 0x2000 | PRESENT_WRITE), PDPT + 16
        movl    $(DIRECTORIES + 0x3000 | PRESENT_WRITE), PDPT + 24

        movl    $DIRECTORIES, %edi
        movl    $(PRESENT_WRITE | LARGE), %eax
2:      movl    %eax, (%edi)
        movl    $0, 4(%edi)
        cmpl    $DEVICES, %eax
        jb      3f
        orl     $CACHE_DISABLE, (%edi)
3:      addl    $8, %edi
        addl    $0x200000, %eax
        jnc     2b
        movl    $(LOW_TABLE | PRESENT_WRITE), DIRECTORIES

        movl    $LOW_TABLE, %edi
        movl    $PRESENT_WRITE, %eax
4:      movl    %eax, (%edi)
        movl    $0, 4(%edi)
        addl    $8, %edi
        addl    $0x1000, %eax
        cmpl    $0x200000, %eax
        jb      4b
        movl    $0, LOW_TABLE

enable_paging:
        movl    $PML4, %eax
        movl    %eax, %cr3
        movl    $CR4_PAE, %eax
        movl    %eax, %cr4
        movl    $MSR_EFER, %ecx
        rdmsr
        orl     $EFER_LME, %eax
        wrmsr
        movl    %cr0, %eax
        orl     $CR0_PG, %eax
        andl    $~CR0_CACHE_OFF, %eax
        movl    %eax, %cr0
        ljmpl   $0x18, $start64

        .code64
start64:
        movl    $IMAGE, %eax
        jmp     *%rax

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff              // 0x08: 32-bit code
        .quad   0x00cf93000000ffff              // 0x10: data
        .quad   0x00af9b000000ffff              // 0x18: 64-bit code
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt

        .org    0xfff0
        .code16
        .byte   0xe9                            // jmp start16, from the reset vector
        .word   start16 - . - 2
        .org    0x10000

        .section .note.GNU-stack, "", @progbits
