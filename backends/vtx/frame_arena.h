// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A run of physical memory, given out in pieces: the host memory of a bare-metal hypervisor.

#ifndef TDP_BACKENDS_VTX_FRAME_ARENA_H_
#define TDP_BACKENDS_VTX_FRAME_ARENA_H_

#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "tdp/base/address.h"

namespace tdp::vtx {

// Thread-safe. First fit over a list of free runs. The memory is mapped at its physical address
// plus a constant, and a host virtual address of it is that sum.
class FrameArena {
 public:
  // `memory` (page aligned) to `memory + bytes` is physically contiguous and at physical address
  // `memory - direct_map_offset`.
  FrameArena(void* memory, ByteCount bytes, uintptr_t direct_map_offset = 0);

  FrameArena(const FrameArena&) = delete;
  FrameArena& operator=(const FrameArena&) = delete;

  // `bytes` (of whole pages) aligned to `alignment`, a power of two of at least a page, with
  // whatever was in it. ResourceExhausted if no free run has room; InvalidArgument for other
  // numbers.
  absl::StatusOr<Hpa> Allocate(ByteCount bytes, ByteCount alignment) ABSL_LOCKS_EXCLUDED(mutex_);
  // Does the same, filled with zeros.
  absl::StatusOr<Hpa> AllocateZeroed(ByteCount bytes, ByteCount alignment);
  // Takes back a piece, whole.
  void Free(Hpa start, ByteCount bytes) ABSL_LOCKS_EXCLUDED(mutex_);

  ByteCount free_bytes() const ABSL_LOCKS_EXCLUDED(mutex_);

  Hpa start() const { return start_; }
  Hpa end() const { return end_; }
  uintptr_t direct_map_offset() const { return direct_map_offset_; }

  Hva HvaOf(Hpa hpa) const { return Hva(hpa.raw() + direct_map_offset_); }
  Hpa HpaOf(Hva hva) const { return Hpa(hva.raw() - direct_map_offset_); }
  template <typename T>
  T* PointerTo(Hpa hpa) const {
    return reinterpret_cast<T*>(HvaOf(hpa).raw());
  }

 private:
  struct Run {
    Hpa start;
    Hpa end;
  };

  const Hpa start_;
  const Hpa end_;
  const uintptr_t direct_map_offset_;
  mutable absl::Mutex mutex_;
  std::vector<Run> free_ ABSL_GUARDED_BY(mutex_);  // by address, never touching each other
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_FRAME_ARENA_H_
