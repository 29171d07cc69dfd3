// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/rmap/descriptor_pool.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/sync.h"

namespace tdp {
namespace {

constexpr size_t kSlabBytes = size_t{64} << 10;

}  // namespace

void DescriptorPool::SlabDeleter::operator()(std::byte* slab) const {
  ::operator delete (slab, std::align_val_t{kPageSize});
}

DescriptorPool::~DescriptorPool() { TDP_CHECK_EQ(taken(), size_t{0}); }

absl::Status DescriptorPool::Take(size_t count, void** out) {
  for (;;) {
    {
      MutexLock lock(mutex_);
      if (free_count_ >= count) {
        for (size_t i = 0; i < count; ++i) out[i] = std::exchange(free_, free_->next);
        free_count_ -= count;
        taken_.fetch_add(count, std::memory_order_relaxed);
        return absl::OkStatus();
      }
    }
    if (absl::Status status = AddSlab(); !status.ok()) return status;
  }
}

absl::Status DescriptorPool::AddSlab() {
  void* memory = ::operator new (kSlabBytes, std::align_val_t{kPageSize}, std::nothrow);
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no memory for %u bytes of rmap descriptors", kSlabBytes));
  }
  std::unique_ptr<std::byte, SlabDeleter> slab(static_cast<std::byte*>(memory));
  reserved_bytes_.fetch_add(kSlabBytes, std::memory_order_relaxed);
  MutexLock lock(mutex_);
  // Descriptors are linked from the end of the slab, so that they are handed out by ascending
  // address.
  for (size_t at = kSlabBytes; at >= descriptor_bytes_; at -= descriptor_bytes_) {
    free_ = new (slab.get() + at - descriptor_bytes_) FreeDescriptor{free_};
  }
  free_count_ += kSlabBytes / descriptor_bytes_;
  slabs_.push_back(std::move(slab));
  return absl::OkStatus();
}

void DescriptorPool::Return(size_t count, void* const* descriptors) {
  taken_.fetch_sub(count, std::memory_order_relaxed);
  MutexLock lock(mutex_);
  for (size_t i = 0; i < count; ++i) free_ = new (descriptors[i]) FreeDescriptor{free_};
  free_count_ += count;
}

DescriptorCache::~DescriptorCache() { Drain(0); }

absl::Status DescriptorCache::RefillSlow() {
  const int missing = kCapacity / 2 - size_;
  absl::Status status = pool_.Take(static_cast<size_t>(missing), stock_.data() + size_);
  if (!status.ok()) return status;
  size_ += missing;
  // They are popped from the end: lowest address first.
  std::reverse(stock_.begin() + size_ - missing, stock_.begin() + size_);
  return absl::OkStatus();
}

void DescriptorCache::Drain(int keep) {
  pool_.Return(static_cast<size_t>(size_ - keep), stock_.data() + keep);
  size_ = keep;
}

}  // namespace tdp
