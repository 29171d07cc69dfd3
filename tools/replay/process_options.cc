// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/process_options.h"

namespace tdp::tools {

void AddProcessOptions(OptionParser& parser, ProcessOptions* options) {
  parser.AddChoice("as", "several traces are threads of one program, or processes on --cpus CPUs",
                   &options->separate, {{"threads", false}, {"processes", true}});
  parser.AddInteger("timeslice",
                    "accesses until a CPU goes to another process, on average; the seed decides",
                    &options->timeslice, 1, 1'000'000'000);
  parser.AddChoice("pcid", "whether the kernel tags each process's translations", &options->pcid,
                   {{"off", false}, {"on", true}});
  parser.AddInteger("kernel-accesses",
                    "accesses of the kernel at each context switch and page fault of processes",
                    &options->kernel_accesses, 0, 1'000'000);
}

}  // namespace tdp::tools
