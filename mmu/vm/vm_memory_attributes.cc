// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `Vm::SetMemoryAttributes`.

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/checks.h"

namespace tdp {

absl::Status Vm::SetMemoryAttributes(Gpa gpa, ByteCount size, uint64_t attributes) {
  TDP_RETURN_IF_ERROR(CheckAttributes(*engine_, gpa, size, attributes));
  const bool is_private = (attributes & kMemoryAttributePrivate) != 0;
  const FrameRange range{Gfn::Of(gpa), Gfn::Of(gpa) + PageCount::FromBytes(size)};
  engine_->StockSpare();
  MutexLock lock(engine_->slots_mutex());
  const PrivateFrames& old = engine_->private_frames();
  if (old.At(range.first) == is_private && old.EndOfRun(range.first) >= range.end) {
    return absl::OkStatus();
  }
  auto frames = std::make_unique<const PrivateFrames>(
      old.With(range, [is_private](bool) { return is_private; }));
  PendingFlush flush = engine_->ZapEverywhere(range.first, range.end, [&] {
    engine_->ShowPrivateFrames(frames.get());
    engine_->sequence().Move();
  });
  engine_->SwapPrivateFrames(frames);
  flush.Settle();
  return absl::OkStatus();
}

}  // namespace tdp
