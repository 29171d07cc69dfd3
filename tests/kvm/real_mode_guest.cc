// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tests/kvm/real_mode_guest.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/kvm/errno_status.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/memory_slot.h"

namespace tdp {
namespace {

// This is 16-bit code; ES begins at the page of the access, DI is the offset in it.
constexpr unsigned char kReadCode[] = {0x66, 0x26, 0x8b, 0x05,        // mov eax, es:[di]
                                       0x66, 0x26, 0x8b, 0x5d, 0x04,  // mov ebx, es:[di+4]
                                       0xf4};                         // hlt
constexpr unsigned char kWriteCode[] = {0x26, 0x88, 0x05,             // mov es:[di], al
                                        0xf4};                        // hlt
constexpr size_t kReadEntry = 0;
constexpr size_t kWriteEntry = 0x80;

void* MapAnonymous(size_t size) {
  return ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RealModeGuest>> RealModeGuest::Create(KvmVm& vm, uint32_t slot) {
  auto guest = absl::WrapUnique(new RealModeGuest(vm));
  TDP_RETURN_IF_ERROR(guest->Start(slot));
  return guest;
}

absl::Status RealModeGuest::Start(uint32_t slot) {
  void* const code = MapAnonymous(kPageSize);
  if (code == MAP_FAILED) return absl::ResourceExhaustedError("no memory for the guest's code");
  code_ = static_cast<std::byte*>(code);
  std::memcpy(code_ + kReadEntry, kReadCode, sizeof(kReadCode));
  std::memcpy(code_ + kWriteEntry, kWriteCode, sizeof(kWriteCode));
  MemoryRegion region;
  region.slot = slot;
  region.gpa = kCodePage;
  region.size = kPageSize;
  region.hva = Hva(reinterpret_cast<uintptr_t>(code));
  TDP_RETURN_IF_ERROR(vm_.SetMemoryRegion(region));
  // Intel parts without unrestricted guests need a place for a TSS; others do not know the call.
  static_cast<void>(::ioctl(vm_.vm_fd(), KVM_SET_TSS_ADDR, 0xfffbd000));
  vcpu_ = FileDescriptor(::ioctl(vm_.vm_fd(), KVM_CREATE_VCPU, 0));
  if (!vcpu_.is_open()) {
    return absl::UnavailableError(absl::StrCat("KVM_CREATE_VCPU: ", ErrnoName(errno)));
  }
  run_size_ = static_cast<size_t>(::ioctl(vm_.kvm_fd(), KVM_GET_VCPU_MMAP_SIZE, 0));
  void* const run = ::mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_.get(), 0);
  if (run == MAP_FAILED) return absl::UnavailableError(absl::StrCat("kvm_run: ", ErrnoName(errno)));
  run_ = static_cast<kvm_run*>(run);
  return absl::OkStatus();
}

RealModeGuest::~RealModeGuest() {
  if (run_ != nullptr) ::munmap(run_, run_size_);
  vcpu_ = FileDescriptor();
}

absl::Status RealModeGuest::SetRegisters(size_t entry_point, Gpa gpa) {
  kvm_sregs sregs;
  if (::ioctl(vcpu_.get(), KVM_GET_SREGS, &sregs) != 0) return ErrnoStatus(errno, "KVM_GET_SREGS");
  sregs.cs.base = kCodePage.raw();
  sregs.cs.selector = static_cast<uint16_t>(kCodePage.raw() >> 4);
  sregs.es.base = gpa.AlignDown(kPageSize).raw();
  sregs.es.limit = 0xffffffff;
  sregs.es.g = 1;
  if (::ioctl(vcpu_.get(), KVM_SET_SREGS, &sregs) != 0) return ErrnoStatus(errno, "KVM_SET_SREGS");
  kvm_regs regs = {};
  regs.rip = entry_point;
  regs.rdi = gpa.page_offset();
  regs.rflags = 2;
  if (::ioctl(vcpu_.get(), KVM_SET_REGS, &regs) != 0) return ErrnoStatus(errno, "KVM_SET_REGS");
  return absl::OkStatus();
}

absl::StatusOr<RealModeGuest::Answer> RealModeGuest::Run(size_t entry_point, Gpa gpa) {
  TDP_RETURN_IF_ERROR(SetRegisters(entry_point, gpa));
  if (::ioctl(vcpu_.get(), KVM_RUN, 0) != 0) return ErrnoStatus(errno, "KVM_RUN");
  if (run_->exit_reason == KVM_EXIT_MMIO) {
    // The instruction is completed in one more call, which is not to enter the guest.
    run_->immediate_exit = 1;
    static_cast<void>(::ioctl(vcpu_.get(), KVM_RUN, 0));
    run_->immediate_exit = 0;
    return Answer{.mmio = true};
  }
  if (run_->exit_reason != KVM_EXIT_HLT) {
    return absl::InternalError(absl::StrFormat("KVM_RUN: exit %d", run_->exit_reason));
  }
  kvm_regs regs;
  if (::ioctl(vcpu_.get(), KVM_GET_REGS, &regs) != 0) return ErrnoStatus(errno, "KVM_GET_REGS");
  return Answer{.mmio = false, .value = regs.rbx << 32 | (regs.rax & 0xffffffff)};
}

absl::StatusOr<RealModeGuest::Answer> RealModeGuest::Read(Gpa gpa) { return Run(kReadEntry, gpa); }

absl::StatusOr<RealModeGuest::Answer> RealModeGuest::Write(Gpa gpa) {
  return Run(kWriteEntry, gpa);
}

}  // namespace tdp
