// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// ChampSim's traces: 64 bytes an instruction, decompressed (`xz -dc TRACE | tdp replay --format
// champsim -`). An instruction pointer, branch flags, registers, then two addresses that it writes
// and four that it reads, 0 where there is none.

#ifndef TDP_TOOLS_TRACE_CHAMPSIM_TRACE_H_
#define TDP_TOOLS_TRACE_CHAMPSIM_TRACE_H_

#include <memory>
#include <string>
#include <string_view>

#include "tdp/tools/trace/byte_source.h"
#include "tdp/tools/trace/trace_reader.h"

namespace tdp::tools {

// The format has no sizes: a fetch counts 4 bytes and an operand 8. An address that an instruction
// both reads and writes is a modify.
std::unique_ptr<TraceReader> MakeChampsimTraceReader(std::unique_ptr<ByteSource> source,
                                                     TraceTolerance tolerance);

// Returns whether the bytes of `head`, which begin a file, can be such records: there is no magic
// number.
bool LooksLikeChampsim(std::string_view head);

// Makes a reader for the records of 96 bytes of CloudSuite's traces.
std::unique_ptr<TraceReader> MakeCloudsuiteTraceReader(std::unique_ptr<ByteSource> source,
                                                       TraceTolerance tolerance);
bool LooksLikeCloudsuite(std::string_view head);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_CHAMPSIM_TRACE_H_
