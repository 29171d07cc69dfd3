// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Line formats of other simulators and tools.

#ifndef TDP_TOOLS_TRACE_SIMULATOR_TRACES_H_
#define TDP_TOOLS_TRACE_SIMULATOR_TRACES_H_

#include <string_view>
#include <vector>

#include "tdp/tools/trace/text_trace.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Pin's pinatrace: "0x4004f0: R 0x7ffd1000", with the size and the value behind it in some
// versions. A line is the fetch of its instruction and the access; where no size is said it is a
// byte.
LineResult ParsePinatraceLine(std::string_view line, std::vector<TraceRecord>& records);

// Dinero's din: "0 1fc0" (0 read, 1 write, 2 fetch; r, w and i in the extended form), with a size
// in some. Without, four bytes. 3 and 4 access nothing.
LineResult ParseDineroLine(std::string_view line, std::vector<TraceRecord>& records);

// Ramulator's traces: of memory ("0x12345680 R"), or of a CPU ("3 20734016", "1 20846400 20734016":
// instructions without access, the address read, and one written back). Lines of 64 bytes.
LineResult ParseRamulatorLine(std::string_view line, std::vector<TraceRecord>& records);

// QEMU's execlog plugin: "0, 0x401000, 0x55, \"pushq %rbp\", store, 0x7ffd1000". An instruction is
// a fetch of one byte, which is all that the line is sure of, and so are its accesses.
LineResult ParseExeclogLine(std::string_view line, std::vector<TraceRecord>& records);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_SIMULATOR_TRACES_H_
