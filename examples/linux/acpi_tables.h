// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The firmware tables by which Linux finds its second CPU: those of ACPI that name the local APICs.

#ifndef TDP_EXAMPLES_LINUX_ACPI_TABLES_H_
#define TDP_EXAMPLES_LINUX_ACPI_TABLES_H_

#include <cstdint>

#include "absl/types/span.h"

namespace tdp::linux_example {

// The root pointer lies here, in what a PC reserves for its firmware.
inline constexpr uint64_t kAcpiRootPointer = 0xe0000;

// Writes the tables for `cpus` CPUs, at most 256, whose local APICs have the ids from 0 on. `ram`
// is the guest's memory from guest physical 0 on.
void WriteAcpiTables(absl::Span<uint8_t> ram, int cpus);

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_ACPI_TABLES_H_
