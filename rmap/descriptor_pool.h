// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The memory of descriptors: a pool for a `Vm`, and a small stock of them for each vCPU so that
// nothing is allocated under a lock.

#ifndef TDP_RMAP_DESCRIPTOR_POOL_H_
#define TDP_RMAP_DESCRIPTOR_POOL_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "absl/base/optimization.h"
#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/base/sync.h"

namespace tdp {

// Thread-safe. Free descriptors are linked through their first word.
class DescriptorPool {
 public:
  // `descriptor_bytes` is a power of two, 16 to 4096; descriptors are aligned to it.
  explicit DescriptorPool(size_t descriptor_bytes) : descriptor_bytes_(descriptor_bytes) {}
  // By then every descriptor has come back.
  ~DescriptorPool();

  DescriptorPool(const DescriptorPool&) = delete;
  DescriptorPool& operator=(const DescriptorPool&) = delete;

  // Stores `count` descriptors in `out`. ResourceExhausted, with nothing taken, if there is no
  // memory. May allocate; hold no lock.
  absl::Status Take(size_t count, void** out) ABSL_LOCKS_EXCLUDED(mutex_);
  void Return(size_t count, void* const* descriptors) ABSL_LOCKS_EXCLUDED(mutex_);

  // Returns how many descriptors are taken and not returned: in chains or in stocks.
  size_t taken() const { return taken_.load(std::memory_order_relaxed); }
  // Returns the bytes held from the host, free descriptors included.
  ByteCount reserved_bytes() const { return reserved_bytes_.load(std::memory_order_relaxed); }

 private:
  struct FreeDescriptor {
    FreeDescriptor* next;
  };
  struct SlabDeleter {
    void operator()(std::byte* slab) const;
  };

  absl::Status AddSlab() ABSL_LOCKS_EXCLUDED(mutex_);

  const size_t descriptor_bytes_;
  Atomic<size_t> taken_{0};
  Atomic<ByteCount> reserved_bytes_{0};
  Mutex mutex_;
  FreeDescriptor* free_ ABSL_GUARDED_BY(mutex_) = nullptr;
  size_t free_count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::unique_ptr<std::byte, SlabDeleter>> slabs_ ABSL_GUARDED_BY(mutex_);
};

// A stock of free descriptors, which belongs to one thread at a time.
class DescriptorCache {
 public:
  static constexpr int kCapacity = 64;

  explicit DescriptorCache(DescriptorPool& pool) : pool_(pool) {}
  ~DescriptorCache();

  DescriptorCache(const DescriptorCache&) = delete;
  DescriptorCache& operator=(const DescriptorCache&) = delete;

  // Sees to it that `needed` (at most `kCapacity` / 2) descriptors are here: one compare where they
  // are. ResourceExhausted if they can not be had; what was here stays. Hold no lock.
  absl::Status Refill(int needed) {
    if (ABSL_PREDICT_TRUE(size_ >= needed)) return absl::OkStatus();
    return RefillSlow();
  }

  int size() const { return size_; }
  // Takes a descriptor out of the stock, which is not empty.
  void* Pop() {
    TDP_DCHECK(size_ > 0);
    return stock_[static_cast<size_t>(--size_)];
  }
  // Puts a descriptor back. Where the stock is full, half of it goes to the pool first, under its
  // mutex.
  void Push(void* descriptor) {
    if (ABSL_PREDICT_FALSE(size_ == kCapacity)) Drain(kCapacity / 2);
    stock_[static_cast<size_t>(size_++)] = descriptor;
  }

 private:
  absl::Status RefillSlow();
  void Drain(int keep);

  DescriptorPool& pool_;
  int size_ = 0;
  std::array<void*, kCapacity> stock_;
};

}  // namespace tdp

#endif  // TDP_RMAP_DESCRIPTOR_POOL_H_
