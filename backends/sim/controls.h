// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The VM-execution controls that bear on address translation (SDM vol. 3C, 25.6): the part of the
// VMCS that a hypervisor writes for this CPU.

#ifndef TDP_BACKENDS_SIM_CONTROLS_H_
#define TDP_BACKENDS_SIM_CONTROLS_H_

#include <cstdint>

#include "tdp/base/address.h"

namespace tdp::sim {

struct Controls {
  bool ept = true;            // "enable EPT"; off: guest-physical addresses are host-physical ones
  uint16_t vpid = 1;          // 0: VPIDs are off
  bool mbec = false;          // "mode-based execute control for EPT"
  bool paging_write = false;  // "EPT paging-write control"
  bool guest_paging_verification = false;  // "guest-paging verification"
  bool pml = false;                        // "enable PML"
  Hpa pml_address;                         // of the 4 KiB log
  bool ve = false;                         // "EPT-violation #VE"
  Hpa ve_information;                      // of the virtualization-exception information page
  bool spp = false;                        // "sub-page write permissions for EPT"
  Hpa sppt_root;                           // of the SPP table
  bool eptp_switching = false;             // VMFUNC leaf 0
  Hpa eptp_list;                           // of the 512 EPTPs that VMFUNC may choose from

  friend bool operator==(const Controls&, const Controls&) = default;
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_CONTROLS_H_
