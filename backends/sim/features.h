// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what a simulated CPU offers to its guest and to its hypervisor.

#ifndef TDP_BACKENDS_SIM_FEATURES_H_
#define TDP_BACKENDS_SIM_FEATURES_H_

#include <cstdint>

#include "tdp/mmu/format/ept_capabilities.h"

namespace tdp::sim {

struct CpuFeatures {
  int physical_address_bits = 46;  // MAXPHYADDR, 32 to 52
  bool guest_pages_1g = true;      // CPUID.80000001H:EDX[26]
  EptCapabilities ept = EptCapabilities::All();
  bool mbec = true;            // mode-based execute control for EPT
  bool pml = true;             // page-modification logging
  bool spp = true;             // sub-page write permissions
  bool ve = true;              // EPT-violation #VE
  bool eptp_switching = true;  // VMFUNC leaf 0
};

// Says what the caches do where the architecture leaves a choice.
enum class CachePolicy : uint8_t {
  // Does as parts on the market do: a cached translation without the right needed is walked again.
  kRealistic,
  // Is as bad as the architecture allows: it faults on the cached rights (a spurious fault), and
  // CR3 writes and invalidations keep whatever they may keep.
  kAdversarial,
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_FEATURES_H_
