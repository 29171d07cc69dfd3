// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This is the least guest that can touch memory under /dev/kvm: two instructions in real mode.

#ifndef TDP_TESTS_KVM_REAL_MODE_GUEST_H_
#define TDP_TESTS_KVM_REAL_MODE_GUEST_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/kvm/file_descriptor.h"
#include "tdp/backends/kvm/kvm_vm.h"
#include "tdp/base/address.h"

struct kvm_run;

namespace tdp {

class RealModeGuest {
 public:
  // The guest runs from this page; no slot of a test may lie here.
  static constexpr Gpa kCodePage{0xf00000};

  // Takes slot `slot` of `vm`, which outlives the guest. Unavailable where the kernel makes no
  // vCPU.
  static absl::StatusOr<std::unique_ptr<RealModeGuest>> Create(KvmVm& vm, uint32_t slot);
  ~RealModeGuest();

  struct Answer {
    bool mmio = false;
    uint64_t value = 0;  // of a read of memory
  };
  // Reads eight bytes, within a page and below 4 GiB.
  absl::StatusOr<Answer> Read(Gpa gpa);
  // Writes one byte of zero.
  absl::StatusOr<Answer> Write(Gpa gpa);

 private:
  explicit RealModeGuest(KvmVm& vm) : vm_(vm) {}

  absl::Status Start(uint32_t slot);
  absl::StatusOr<Answer> Run(size_t entry_point, Gpa gpa);
  absl::Status SetRegisters(size_t entry_point, Gpa gpa);

  KvmVm& vm_;
  FileDescriptor vcpu_;
  std::byte* code_ = nullptr;
  kvm_run* run_ = nullptr;
  size_t run_size_ = 0;
};

}  // namespace tdp

#endif  // TDP_TESTS_KVM_REAL_MODE_GUEST_H_
