// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The texts of tools/data/machines, in the order of their names.

#ifndef TDP_TOOLS_DATA_MACHINES_H_
#define TDP_TOOLS_DATA_MACHINES_H_

namespace tdp::tools {

struct MachineText {
  const char* name;  // of the file, without ".machine"
  const char* text;
};

extern const MachineText kMachineTexts[5];

}  // namespace tdp::tools

#endif  // TDP_TOOLS_DATA_MACHINES_H_
