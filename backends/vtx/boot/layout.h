// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Numbers that the loader's assembly and its C++ share: the memory map and the descriptor table.

#ifndef TDP_BACKENDS_VTX_BOOT_LAYOUT_H_
#define TDP_BACKENDS_VTX_BOOT_LAYOUT_H_

#define MAX_PROCESSORS 8
#define BOOT_STACK_BYTES 8192

#define LOCAL_APIC_ID 0xfee00020
#define LOCAL_APIC_COMMAND_LOW 0xfee00300
#define LOCAL_APIC_COMMAND_HIGH 0xfee00310

#define ARGUMENTS 0x80000
#define PROGRAM_IMAGE 0x140000
#define PROGRAM_IMAGE_END 0x2000000

#define CODE_SELECTOR 0x08
#define DATA_SELECTOR 0x10
#define TASK_SELECTOR 0x18

#endif  // TDP_BACKENDS_VTX_BOOT_LAYOUT_H_
