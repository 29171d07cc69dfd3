// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/kvm/kvm_vm.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/kvm/errno_status.h"
#include "tdp/base/absl_mutex.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/dirty_log_request.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_limits.h"
#include "tdp/memslot/slot_update.h"

namespace tdp {
namespace {

constexpr char kDevice[] = "/dev/kvm";

uint32_t SlotWord(uint32_t slot, AddressSpaceId address_space) {
  return uint32_t{address_space} << 16 | slot;
}

uint64_t WordsOf(uint64_t pages) { return (pages + 63) / 64; }

// Returns the status of a request that the kernel refused. `reason` is what the mirror says of it.
absl::Status Refused(int error, std::string_view call, const absl::Status& reason) {
  if (!reason.ok()) return ErrnoStatus(error, std::string(reason.message()));
  return ErrnoStatus(error, absl::StrFormat("%s refused a request with no known fault", call));
}

// Refuses what the kernel's request has no field for, and so would take without heeding it.
absl::Status CheckHasWords(const MemoryRegion& region, const SlotLimits& limits) {
  if ((region.flags & kSlotHostFrames) != 0) {
    return absl::InvalidArgumentError("flags have kSlotHostFrames: KVM asks for every page");
  }
  const MemoryRegion plain;
  const bool names_frames = region.hpa != plain.hpa || region.rights != plain.rights ||
                            region.memory_type != plain.memory_type;
  return names_frames ? CheckRequest(region, limits) : absl::OkStatus();
}

// Returns whether the device is not there, or not for this user. Anything else is a fault, and must
// not look like that.
bool MeansNoDevice(int error) {
  return error == ENOENT || error == ENODEV || error == ENXIO || error == EACCES || error == EPERM;
}

absl::StatusOr<FileDescriptor> OpenDevice() {
  FileDescriptor kvm(::open(kDevice, O_RDWR | O_CLOEXEC));
  if (!kvm.is_open()) {
    const int error = errno;
    const std::string what = absl::StrCat(kDevice, ": ", ErrnoName(error));
    return MeansNoDevice(error) ? absl::UnavailableError(what) : absl::InternalError(what);
  }
  const int version = ::ioctl(kvm.get(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION) {
    return absl::UnavailableError(
        absl::StrFormat("%s: API version %d, not %d", kDevice, version, KVM_API_VERSION));
  }
  return kvm;
}

// Asks by KVM_CHECK_EXTENSION; returns `otherwise` if the kernel does not know the extension.
int Extension(int fd, int capability, int otherwise) {
  const int answer = ::ioctl(fd, KVM_CHECK_EXTENSION, capability);
  return answer > 0 ? answer : otherwise;
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvmVm>> KvmVm::Create() {
  TDP_ASSIGN_OR_RETURN(FileDescriptor kvm, OpenDevice());
  FileDescriptor vm(::ioctl(kvm.get(), KVM_CREATE_VM, 0));
  if (!vm.is_open()) {
    return absl::InternalError(absl::StrCat("KVM_CREATE_VM: ", ErrnoName(errno)));
  }
  SlotLimits limits;
  limits.slots = static_cast<uint32_t>(Extension(vm.get(), KVM_CAP_NR_MEMSLOTS, 32764));
  limits.address_spaces = Extension(vm.get(), KVM_CAP_MULTI_ADDRESS_SPACE, 1);
  TDP_RETURN_IF_ERROR(CheckLimits(limits));
  return absl::WrapUnique(new KvmVm(std::move(kvm), std::move(vm), limits));
}

KvmVm::KvmVm(FileDescriptor kvm, FileDescriptor vm, const SlotLimits& limits)
    : kvm_(std::move(kvm)), vm_(std::move(vm)), mirror_(limits) {}

absl::Status KvmVm::SetMemoryRegion(const MemoryRegion& region) {
  kvm_userspace_memory_region request = {};
  AbslMutexLock lock(mutex_);
  // An id that does not fit its half of the word must not turn into another address space.
  if (region.slot > 0xffff) return CheckRequest(region, mirror_.limits());
  TDP_RETURN_IF_ERROR(CheckHasWords(region, mirror_.limits()));
  request.slot = SlotWord(region.slot, region.address_space);
  request.flags = region.flags;
  request.guest_phys_addr = region.gpa.raw();
  request.memory_size = region.size;
  request.userspace_addr = region.hva.raw();
  absl::StatusOr<SlotUpdate> update = mirror_.Prepare(region);
  if (::ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &request) != 0) {
    return Refused(errno, "KVM_SET_USER_MEMORY_REGION", update.status());
  }
  if (!update.ok()) {
    return absl::InternalError(
        absl::StrCat("the kernel took what the mirror refuses: ", update.status().message()));
  }
  mirror_.Publish(*std::move(update));
  return absl::OkStatus();
}

absl::Status KvmVm::GetDirtyLog(uint32_t slot, DirtyLog::Visitor visit,
                                AddressSpaceId address_space) {
  std::vector<uint64_t> bitmap;
  {
    AbslMutexLock lock(mutex_);
    const absl::StatusOr<MemorySlot> mirrored = SlotToGetDirtyLog(mirror_, address_space, slot);
    if (slot > 0xffff) return mirrored.status();
    if (mirrored.ok()) bitmap.resize(WordsOf(mirrored->pages.raw()));
    kvm_dirty_log request = {};
    request.slot = SlotWord(slot, address_space);
    request.dirty_bitmap = bitmap.data();
    if (::ioctl(vm_.get(), KVM_GET_DIRTY_LOG, &request) != 0) {
      return Refused(errno, "KVM_GET_DIRTY_LOG", mirrored.status());
    }
  }
  for (size_t i = 0; i < bitmap.size(); ++i) {
    if (bitmap[i] != 0) visit(i * DirtyLog::kPagesPerWord, bitmap[i]);
  }
  return absl::OkStatus();
}

absl::Status KvmVm::ClearDirtyLog(uint32_t slot, const DirtyLogRange& range,
                                  absl::Span<const uint64_t> bits, AddressSpaceId address_space) {
  AbslMutexLock lock(mutex_);
  const absl::StatusOr<MemorySlot> mirrored =
      SlotToClearDirtyLog(mirror_, address_space, slot, range);
  if (slot > 0xffff || range.num_pages > ~uint32_t{0}) return mirrored.status();
  if (mirrored.ok() && bits.size() < WordsOf(range.num_pages)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("bits: %d words for %d pages", bits.size(), range.num_pages));
  }
  // The kernel only reads the bitmap, but its field is a pointer to data that it could write.
  std::vector<uint64_t> bitmap(bits.begin(), bits.end());
  kvm_clear_dirty_log request = {};
  request.slot = SlotWord(slot, address_space);
  request.first_page = range.first_page;
  request.num_pages = static_cast<uint32_t>(range.num_pages);
  request.dirty_bitmap = bitmap.data();
  if (::ioctl(vm_.get(), KVM_CLEAR_DIRTY_LOG, &request) != 0) {
    return Refused(errno, "KVM_CLEAR_DIRTY_LOG", mirrored.status());
  }
  return absl::OkStatus();
}

absl::Status KvmVm::SetManualDirtyLogProtect(uint64_t flags) {
  kvm_enable_cap request = {};
  request.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
  request.args[0] = flags;
  if (::ioctl(vm_.get(), KVM_ENABLE_CAP, &request) != 0) {
    return Refused(errno, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", CheckManualProtectFlags(flags));
  }
  return absl::OkStatus();
}

}  // namespace tdp
