// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/minimal/minimal_backend.h"

#include <cstdint>
#include <cstdlib>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tdp {

MinimalBackend::MinimalBackend() {
  capabilities_.ept = EptCapabilities::All();
  // Wide enough for a user address of this process taken as a physical one.
  capabilities_.physical_address_bits = 52;
  capabilities_.shadow_paging = true;
  capabilities_.direct_map_offset = 0;
}

absl::StatusOr<Hpa> MinimalBackend::AllocateTableBlock() {
  void* block = std::aligned_alloc(kTableBlockBytes, kTableBlockBytes);
  if (block == nullptr) return absl::ResourceExhaustedError("no memory for a block of tables");
  return Hpa(reinterpret_cast<uintptr_t>(block));
}

void MinimalBackend::FreeTableBlock(Hpa block) { std::free(reinterpret_cast<void*>(block.raw())); }

absl::StatusOr<HostPage> MinimalBackend::Resolve(Hva hva, Access) {
  HostPage page;
  page.hfn = Hfn::Of(Hpa(hva.raw()));
  page.order = 0;  // nothing is known of what backs this process's memory
  return page;
}

}  // namespace tdp
