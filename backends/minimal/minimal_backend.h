// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The smallest backend that works, and the start of a port: docs/writing_a_backend.md goes through
// it.
//
// There is no CPU behind it. "Host physical" memory is this process's own memory, at the same
// numbers, so a frame can be looked at through a pointer; nothing caches translations, so there is
// nothing to flush and nobody to kick. That is enough for tests and benchmarks of the tables
// themselves.

#ifndef TDP_BACKENDS_MINIMAL_MINIMAL_BACKEND_H_
#define TDP_BACKENDS_MINIMAL_MINIMAL_BACKEND_H_

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/mmu/backend.h"

namespace tdp {

class MinimalBackend : public Backend {
 public:
  MinimalBackend();

  const Capabilities& capabilities() const override { return capabilities_; }
  absl::StatusOr<Hpa> AllocateTableBlock() override;
  void FreeTableBlock(Hpa block) override;
  absl::StatusOr<HostPage> Resolve(Hva hva, Access access) override;
  void Invalidate(VcpuId, Eptp) override {}
  void InvalidateAll(VcpuId) override {}
  void Kick(absl::Span<const VcpuId>) override {}

 private:
  Capabilities capabilities_;
};

}  // namespace tdp

#endif  // TDP_BACKENDS_MINIMAL_MINIMAL_BACKEND_H_
