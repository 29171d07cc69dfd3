// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/linux_image.h"

#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/examples/linux/acpi_tables.h"

namespace tdp::linux_example {
namespace {

// Guest physical addresses.
constexpr uint64_t kBootParameters = 0x10000;
constexpr uint64_t kPageTables = 0x20000;
constexpr uint64_t kCommandLine = 0x30000;
constexpr uint64_t kStack = 0x9000;
constexpr uint64_t kBiosArea = 0x9f000;
constexpr uint64_t kHighMemory = 0x100000;

// Offsets in the file's setup header and in the boot parameters, which begin with a copy of it.
constexpr size_t kSetupHeader = 0x1f1;
constexpr size_t kHeaderLength = 0x201;
constexpr size_t kMagic = 0x202;
constexpr size_t kLoaderType = 0x210;
constexpr size_t kLoadFlags = 0x211;
constexpr size_t kRamdiskAddress = 0x218;
constexpr size_t kRamdiskSize = 0x21c;
constexpr size_t kCommandLineAddress = 0x228;
constexpr size_t kXLoadFlags = 0x236;
constexpr size_t kPreferredAddress = 0x258;
constexpr size_t kInitSize = 0x260;
constexpr size_t kAcpiRootAddress = 0x70;
constexpr size_t kE820Entries = 0x1e8;
constexpr size_t kE820Table = 0x2d0;

constexpr uint32_t kHeaderMagic = 0x53726448;  // "HdrS"
constexpr uint16_t kHas64BitEntry = 1;
constexpr uint64_t kEntry64 = 0x200;  // from the start of the protected-mode code
constexpr uint64_t kSector = 512;
constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;

template <typename T>
T Get(absl::Span<const uint8_t> bytes, size_t at) {
  T value;
  memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

template <typename T>
void Put(absl::Span<uint8_t> bytes, uint64_t at, T value) {
  memcpy(bytes.data() + at, &value, sizeof(value));
}

void AddE820(absl::Span<uint8_t> parameters, uint64_t start, uint64_t end, uint32_t type) {
  const uint8_t index = parameters[kE820Entries]++;
  const size_t at = kE820Table + index * size_t{20};
  Put<uint64_t>(parameters, at, start);
  Put<uint64_t>(parameters, at + 8, end - start);
  Put<uint32_t>(parameters, at + 16, type);
}

// The whole of what it scans for firmware tables is memory, and zero.
void WriteMemoryMap(absl::Span<uint8_t> parameters, uint64_t ram) {
  constexpr uint32_t kUsable = 1, kReserved = 2;
  AddE820(parameters, 0, kBiosArea, kUsable);
  AddE820(parameters, kBiosArea, kHighMemory, kReserved);
  AddE820(parameters, kHighMemory, ram, kUsable);
}

// The low 4 GiB mapped to themselves in pages of 2 MiB.
void WritePageTables(absl::Span<uint8_t> ram) {
  constexpr uint64_t kPresentWrite = 3, kLarge = 0x80;
  Put(ram, kPageTables, (kPageTables + kPageSize) | kPresentWrite);
  for (uint64_t i = 0; i < 4; ++i) {
    Put(ram, kPageTables + kPageSize + 8 * i, (kPageTables + (2 + i) * kPageSize) | kPresentWrite);
  }
  for (uint64_t i = 0; i < 4 * 512; ++i) {
    Put(ram, kPageTables + 2 * kPageSize + 8 * i, i * MiB(2) | kPresentWrite | kLarge);
  }
}

// Returns the state to start in. A kernel without a 64-bit entry begins in flat 32-bit mode without
// paging.
vtx::GuestState StartState(uint64_t code, bool is_64_bit) {
  vtx::GuestState state = is_64_bit ? vtx::GuestState::Long64(code + kEntry64, kStack, kPageTables)
                                    : vtx::GuestState::Flat32(static_cast<uint32_t>(code), kStack);
  for (vtx::GuestSegment& segment : state.segments) segment.selector = kDataSelector;
  state.segments[vtx::kCs].selector = kCodeSelector;
  state.segments[vtx::kLdtr].selector = 0;
  state.segments[vtx::kTr].selector = 0;
  return state;
}

absl::Status CheckKernel(absl::Span<const uint8_t> kernel) {
  if (kernel.size() < kInitSize + 4 || Get<uint32_t>(kernel, kMagic) != kHeaderMagic) {
    return absl::InvalidArgumentError("kernel: no Linux bzImage");
  }
  return absl::OkStatus();
}

}  // namespace

bool Is64Bit(absl::Span<const uint8_t> kernel) {
  return CheckKernel(kernel).ok() && (Get<uint16_t>(kernel, kXLoadFlags) & kHas64BitEntry) != 0;
}

absl::StatusOr<LinuxStart> LoadLinux(const LinuxImage& image, int cpus, absl::Span<uint8_t> ram) {
  if (absl::Status status = CheckKernel(image.kernel); !status.ok()) return status;
  const uint64_t setup_sectors = image.kernel[kSetupHeader] == 0 ? 4 : image.kernel[kSetupHeader];
  const absl::Span<const uint8_t> code = image.kernel.subspan((setup_sectors + 1) * kSector);
  const auto load = Get<uint64_t>(image.kernel, kPreferredAddress);
  const uint64_t kernel_end = load + Get<uint32_t>(image.kernel, kInitSize);
  const uint64_t initramfs = (ram.size() - image.initramfs.size()) & ~(kPageSize - 1);
  if (image.initramfs.size() > ram.size() || kernel_end > initramfs) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d bytes of memory: the kernel takes all below 0x%x, the initramfs %d",
                        ram.size(), kernel_end, image.initramfs.size()));
  }
  memcpy(ram.data() + load, code.data(), code.size());
  memcpy(ram.data() + initramfs, image.initramfs.data(), image.initramfs.size());
  memcpy(ram.data() + kCommandLine, image.command_line.c_str(), image.command_line.size() + 1);
  WritePageTables(ram);

  const absl::Span<uint8_t> parameters = ram.subspan(kBootParameters, kPageSize);
  memcpy(parameters.data() + kSetupHeader, image.kernel.data() + kSetupHeader,
         kMagic + image.kernel[kHeaderLength] - kSetupHeader);
  parameters[kLoaderType] = 0xff;  // none with a number of its own
  parameters[kLoadFlags] |= 1;
  Put(parameters, kRamdiskAddress, static_cast<uint32_t>(initramfs));
  Put(parameters, kRamdiskSize, static_cast<uint32_t>(image.initramfs.size()));
  Put(parameters, kCommandLineAddress, static_cast<uint32_t>(kCommandLine));
  WriteMemoryMap(parameters, ram.size());
  if (cpus > 1) {
    WriteAcpiTables(ram, cpus);
    Put(parameters, kAcpiRootAddress, kAcpiRootPointer);
  }
  return LinuxStart{.state = StartState(load, Is64Bit(image.kernel)), .rsi = kBootParameters};
}

}  // namespace tdp::linux_example
