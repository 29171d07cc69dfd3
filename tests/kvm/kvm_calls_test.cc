// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests ask what `KvmVm` asks the kernel for, and what it makes of the answers. In this
// program open and ioctl are those below: a kernel that answers by a script.

#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "tdp/backends/kvm/errno_status.h"
#include "tdp/backends/kvm/kvm_vm.h"
#include "tdp/base/address.h"
#include "tdp/memslot/memory_slot.h"

namespace tdp {
namespace {

// Answers each call with success unless told otherwise, and keeps what it was asked.
struct ScriptedKernel {
  int open_error = 0;
  int version = KVM_API_VERSION;
  int create_error = 0;
  int error = 0;  // of every call that is about a VM
  int slots = 509;
  int address_spaces = 2;
  std::vector<uint64_t> log;  // the words of every dirty log

  int calls = 0;  // that were about a VM
  kvm_userspace_memory_region region = {};
  kvm_dirty_log get = {};
  kvm_clear_dirty_log clear = {};
  std::vector<uint64_t> cleared;
  kvm_enable_cap enabled = {};

  int Open() const { return Answer(open_error, NewDescriptor()); }
  int Ioctl(unsigned long request, void* argument) {
    switch (request) {
      case KVM_GET_API_VERSION:
        return version;
      case KVM_CREATE_VM:
        return Answer(create_error, NewDescriptor());
      case KVM_CHECK_EXTENSION:
        return Extension(reinterpret_cast<uintptr_t>(argument));
      case KVM_SET_USER_MEMORY_REGION:
        std::memcpy(&region, argument, sizeof(region));
        break;
      case KVM_GET_DIRTY_LOG:
        std::memcpy(&get, argument, sizeof(get));
        if (error == 0) std::copy(log.begin(), log.end(), static_cast<uint64_t*>(get.dirty_bitmap));
        break;
      case KVM_CLEAR_DIRTY_LOG: {
        std::memcpy(&clear, argument, sizeof(clear));
        const auto* const bits = static_cast<const uint64_t*>(clear.dirty_bitmap);
        cleared.assign(bits, bits + (clear.num_pages + 63) / 64);
        break;
      }
      case KVM_ENABLE_CAP:
        std::memcpy(&enabled, argument, sizeof(enabled));
        break;
      default:
        return Answer(ENOTTY, 0);
    }
    ++calls;
    return Answer(error, 0);
  }

 private:
  static int Answer(int error, int otherwise) {
    if (error == 0) return otherwise;
    errno = error;
    return -1;
  }
  static int NewDescriptor() { return ::dup(STDERR_FILENO); }
  int Extension(uintptr_t capability) const {
    if (capability == KVM_CAP_NR_MEMSLOTS) return slots;
    return capability == KVM_CAP_MULTI_ADDRESS_SPACE ? address_spaces : 0;
  }
};

ScriptedKernel* g_kernel = nullptr;

// They go by libc's names to the linker alone: its headers may declare them in other ways.
extern "C" int OpenInLibcsPlace(const char* path, int flags, ...) __asm__("open");
extern "C" int OpenInLibcsPlace(const char* path, int flags, ...) {
  if (g_kernel != nullptr && std::string(path) == "/dev/kvm") return g_kernel->Open();
  va_list arguments;
  va_start(arguments, flags);
  const unsigned mode = va_arg(arguments, unsigned);
  va_end(arguments);
  constexpr int kHere = -100;  // AT_FDCWD
  return static_cast<int>(::syscall(SYS_openat, kHere, path, flags, mode));
}

extern "C" int IoctlInLibcsPlace(int descriptor, unsigned long request, ...) __asm__("ioctl");
extern "C" int IoctlInLibcsPlace(int descriptor, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  if (g_kernel != nullptr) return g_kernel->Ioctl(request, argument);
  return static_cast<int>(::syscall(SYS_ioctl, descriptor, request, argument));
}

class KvmCalls : public testing::Test {
 protected:
  KvmCalls() { g_kernel = &kernel_; }
  ~KvmCalls() override { g_kernel = nullptr; }

  void SetUp() override { Make(); }
  void Make() {
    absl::StatusOr<std::unique_ptr<KvmVm>> vm = KvmVm::Create();
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
  }
  absl::StatusCode CodeOfCreate() { return KvmVm::Create().status().code(); }

  using Words = std::vector<std::pair<uint64_t, uint64_t>>;
  absl::StatusOr<Words> Log(uint32_t slot, AddressSpaceId address_space = 0) {
    Words words;
    const absl::Status status = vm_->GetDirtyLog(
        slot, [&](uint64_t base, uint64_t mask) { words.emplace_back(base, mask); }, address_space);
    if (!status.ok()) return status;
    return words;
  }
  static MemoryRegion Region(uint64_t pages) {
    return {.slot = 5,
            .address_space = 1,
            .flags = kSlotLogDirtyPages,
            .gpa = Gpa(MiB(3)),
            .size = pages * kPageSize,
            .hva = Hva(MiB(64))};
  }

  ScriptedKernel kernel_;
  std::unique_ptr<KvmVm> vm_;
};

TEST_F(KvmCalls, ASlotIsNamedWithItsAddressSpaceAboveIt) {
  ASSERT_EQ(vm_->SetMemoryRegion(Region(130)), absl::OkStatus());
  EXPECT_EQ(kernel_.region.slot, 0x10005u);
  EXPECT_EQ(kernel_.region.flags, kSlotLogDirtyPages);
  EXPECT_EQ(kernel_.region.guest_phys_addr, MiB(3));
  EXPECT_EQ(kernel_.region.memory_size, 130 * kPageSize);
  EXPECT_EQ(kernel_.region.userspace_addr, MiB(64));
  ASSERT_TRUE(Log(5, 1).ok());
  EXPECT_EQ(kernel_.get.slot, 0x10005u);
  ASSERT_EQ(vm_->ClearDirtyLog(5, {0, 64}, {{1}}, 1), absl::OkStatus());
  EXPECT_EQ(kernel_.clear.slot, 0x10005u);
}

TEST_F(KvmCalls, AnIdThatDoesNotFitNamesNoOtherAddressSpace) {
  MemoryRegion region = Region(1);
  region.address_space = 0;
  region.slot = 0x10005;
  EXPECT_TRUE(absl::IsInvalidArgument(vm_->SetMemoryRegion(region)));
  EXPECT_TRUE(absl::IsInvalidArgument(Log(0x10005).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(vm_->ClearDirtyLog(0x10005, {0, 64}, {{1}})));
  EXPECT_EQ(kernel_.calls, 0);
}

TEST_F(KvmCalls, ALogIsAsLongAsItsSlotAndShowsTheWordsThatHaveAPage) {
  ASSERT_EQ(vm_->SetMemoryRegion(Region(130)), absl::OkStatus());
  kernel_.log = {0x11, 0, 3};
  const absl::StatusOr<Words> words = Log(5, 1);
  ASSERT_TRUE(words.ok()) << words.status();
  EXPECT_EQ(*words, (Words{{0, 0x11}, {128, 3}}));
}

TEST_F(KvmCalls, AClearHasTheRangeAndTheWordsOfIt) {
  ASSERT_EQ(vm_->SetMemoryRegion(Region(200)), absl::OkStatus());
  ASSERT_EQ(vm_->ClearDirtyLog(5, {64, 136}, {{7, 8, 9}}, 1), absl::OkStatus());
  EXPECT_EQ(kernel_.clear.first_page, 64u);
  EXPECT_EQ(kernel_.clear.num_pages, 136u);
  EXPECT_EQ(kernel_.cleared, (std::vector<uint64_t>{7, 8, 9}));
}

TEST_F(KvmCalls, TheKernelReadsNoWordBehindTheBitmap) {
  ASSERT_EQ(vm_->SetMemoryRegion(Region(200)), absl::OkStatus());
  const int calls = kernel_.calls;
  EXPECT_TRUE(absl::IsInvalidArgument(vm_->ClearDirtyLog(5, {64, 136}, {{7, 8}}, 1)));
  // The kernel's field has 32 bits: it would clear 64 pages.
  EXPECT_TRUE(absl::IsInvalidArgument(
      vm_->ClearDirtyLog(5, {0, (uint64_t{1} << 32) + 64}, {{7, 8, 9, 10}}, 1)));
  EXPECT_EQ(kernel_.calls, calls);
}

TEST_F(KvmCalls, ARefusalTellsTheFieldThatTheMirrorBlames) {
  kernel_.error = EINVAL;
  absl::Status refused =
      vm_->SetMemoryRegion({.slot = 1, .gpa = Gpa(0), .size = kPageSize + 1, .hva = Hva(MiB(64))});
  EXPECT_TRUE(absl::IsInvalidArgument(refused));
  EXPECT_TRUE(absl::StrContains(refused.message(), "EINVAL: size = 0x1001")) << refused;
  refused = vm_->SetMemoryRegion(Region(1));
  EXPECT_TRUE(absl::StrContains(refused.message(), "no known fault")) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "KVM_SET_USER_MEMORY_REGION")) << refused;
  kernel_.error = ENOENT;
  refused = Log(5, 1).status();
  EXPECT_TRUE(absl::IsNotFound(refused)) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "no such slot")) << refused;
}

TEST_F(KvmCalls, TheMirrorHasWhatTheKernelTookAlone) {
  kernel_.error = ENOMEM;
  EXPECT_TRUE(absl::IsResourceExhausted(vm_->SetMemoryRegion(Region(1))));
  kernel_.error = 0;
  MemoryRegion other = Region(1);
  other.slot = 6;
  EXPECT_EQ(vm_->SetMemoryRegion(other), absl::OkStatus()) << "nothing is in its place";
  kernel_.error = EEXIST;
  const absl::Status refused = vm_->SetMemoryRegion(Region(1));
  EXPECT_TRUE(absl::IsAlreadyExists(refused)) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "overlaps slot 6")) << refused;
}

TEST_F(KvmCalls, WhatTheKernelTakesAndTheMirrorRefusesIsAFault) {
  MemoryRegion region = Region(1);
  region.size += 1;
  EXPECT_TRUE(absl::IsInternal(vm_->SetMemoryRegion(region)));
}

TEST_F(KvmCalls, WhatTheKernelHasNoWordForIsNotAsked) {
  MemoryRegion rights = Region(1);
  rights.rights = Access::Read();
  MemoryRegion type = Region(1);
  type.memory_type = MemoryType::kUncacheable;
  MemoryRegion place = Region(1);
  place.hpa = Hpa(kPageSize);
  MemoryRegion frames = Region(1);
  frames.flags = kSlotHostFrames;
  frames.hva = Hva(0);
  for (const MemoryRegion& region : {rights, type, place, frames}) {
    EXPECT_TRUE(absl::IsInvalidArgument(vm_->SetMemoryRegion(region)));
  }
  EXPECT_EQ(kernel_.calls, 0);
}

TEST_F(KvmCalls, ManualProtectionIsACapabilityWithItsFlags) {
  ASSERT_EQ(vm_->SetManualDirtyLogProtect(3), absl::OkStatus());
  EXPECT_EQ(kernel_.enabled.cap, uint32_t{KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2});
  EXPECT_EQ(kernel_.enabled.args[0], 3u);
  kernel_.error = EINVAL;
  const absl::Status refused = vm_->SetManualDirtyLogProtect(2);
  EXPECT_TRUE(absl::StrContains(refused.message(), "only 0, 1 and 3")) << refused;
}

TEST_F(KvmCalls, TheLimitsAreTheKernelsOrThoseThatItAlwaysHad) {
  kernel_.error = EINVAL;
  MemoryRegion region = Region(1);
  region.slot = 509;
  absl::Status refused = vm_->SetMemoryRegion(region);
  EXPECT_TRUE(absl::StrContains(refused.message(), "the limit is 509")) << refused;
  region.slot = 1;
  region.address_space = 2;
  refused = vm_->SetMemoryRegion(region);
  EXPECT_TRUE(absl::StrContains(refused.message(), "offers 2")) << refused;
  kernel_.slots = kernel_.address_spaces = 0;
  Make();
  region.slot = 32764;
  refused = vm_->SetMemoryRegion(region);
  EXPECT_TRUE(absl::StrContains(refused.message(), "the limit is 32764")) << refused;
  region.slot = 1;
  region.address_space = 1;
  refused = vm_->SetMemoryRegion(region);
  EXPECT_TRUE(absl::StrContains(refused.message(), "offers 1")) << refused;
}

TEST_F(KvmCalls, OnlyADeviceThatIsNotThereIsUnavailable) {
  for (const int error : {ENOENT, ENODEV, ENXIO, EACCES, EPERM}) {
    kernel_.open_error = error;
    EXPECT_EQ(CodeOfCreate(), absl::StatusCode::kUnavailable) << ErrnoName(error);
  }
  kernel_.open_error = EMFILE;
  EXPECT_EQ(CodeOfCreate(), absl::StatusCode::kInternal);
  kernel_.open_error = 0;
  kernel_.version = KVM_API_VERSION - 1;
  EXPECT_EQ(CodeOfCreate(), absl::StatusCode::kUnavailable);
  kernel_.version = KVM_API_VERSION;
  kernel_.create_error = ENOMEM;
  EXPECT_EQ(CodeOfCreate(), absl::StatusCode::kInternal);
  kernel_.create_error = 0;
  EXPECT_EQ(CodeOfCreate(), absl::StatusCode::kOk);
}

TEST(ErrnoStatus, HasTheCodeThatGuestMemoryPromisesForIt) {
  const std::pair<int, absl::StatusCode> promised[] = {
      {EINVAL, absl::StatusCode::kInvalidArgument},
      {EEXIST, absl::StatusCode::kAlreadyExists},
      {ENOENT, absl::StatusCode::kNotFound},
      {ENOMEM, absl::StatusCode::kResourceExhausted},
      {ENXIO, absl::StatusCode::kFailedPrecondition},
      {E2BIG, absl::StatusCode::kOutOfRange},
      {EACCES, absl::StatusCode::kPermissionDenied},
      {EPERM, absl::StatusCode::kPermissionDenied},
      {EINTR, absl::StatusCode::kUnavailable},
      {EAGAIN, absl::StatusCode::kUnavailable},
      {EBUSY, absl::StatusCode::kUnavailable},
      {ENODEV, absl::StatusCode::kUnavailable},
      {EFAULT, absl::StatusCode::kInternal},
      {EIO, absl::StatusCode::kInternal},
      {ENOTTY, absl::StatusCode::kInternal},
  };
  for (const auto& [error, code] : promised) {
    EXPECT_EQ(ErrnoStatus(error, "").code(), code) << ErrnoName(error);
  }
  EXPECT_EQ(ErrnoStatus(EINVAL, "size = 1").message(), "EINVAL: size = 1");
  EXPECT_EQ(ErrnoStatus(ENOTTY, "a call").message(), "errno 25: a call");
}

}  // namespace
}  // namespace tdp
