// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A VM of Linux's /dev/kvm, behind the same interface as a `Vm`.

#ifndef TDP_BACKENDS_KVM_KVM_VM_H_
#define TDP_BACKENDS_KVM_KVM_VM_H_

#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "tdp/backends/kvm/file_descriptor.h"
#include "tdp/memslot/guest_memory.h"
#include "tdp/memslot/slot_set.h"

namespace tdp {

// Slots, dirty logs and clears go to the kernel. A mirror of the slots says how long a log is, and,
// when the kernel refuses a request, which field is to blame: the kernel has one errno for many.
// Slots of host frames are refused, and what goes with them; nobody asks for a slot's cookie.
// Thread-safe.
class KvmVm : public GuestMemory {
 public:
  // Unavailable where there is no /dev/kvm, none for this user, or another API; Internal where the
  // kernel fails otherwise. Both name what failed and the errno.
  static absl::StatusOr<std::unique_ptr<KvmVm>> Create();

  absl::Status SetMemoryRegion(const MemoryRegion& region) override;
  absl::Status GetDirtyLog(uint32_t slot, DirtyLog::Visitor visit,
                           AddressSpaceId address_space = 0) override;
  absl::Status ClearDirtyLog(uint32_t slot, const DirtyLogRange& range,
                             absl::Span<const uint64_t> bits,
                             AddressSpaceId address_space = 0) override;
  absl::Status SetManualDirtyLogProtect(uint64_t flags) override;

  // These are for the ioctls of vCPUs, which are the VMM's own.
  int kvm_fd() const { return kvm_.get(); }
  int vm_fd() const { return vm_.get(); }

 private:
  KvmVm(FileDescriptor kvm, FileDescriptor vm, const SlotLimits& limits);

  FileDescriptor kvm_;
  FileDescriptor vm_;
  absl::Mutex mutex_;
  SlotSet mirror_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tdp

#endif  // TDP_BACKENDS_KVM_KVM_VM_H_
