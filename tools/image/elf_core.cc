// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/image/elf_core.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

struct Elf32 {
  using Header = Elf32_Ehdr;
  using Program = Elf32_Phdr;
  using Section = Elf32_Shdr;
};
struct Elf64 {
  using Header = Elf64_Ehdr;
  using Program = Elf64_Phdr;
  using Section = Elf64_Shdr;
};

// Where QEMU's note of an x86 CPU has CR0: behind a version, a size, 18 registers of 8 bytes and
// ten segments of 24. CR1 to CR4 follow.
constexpr size_t kQemuCr0Offset = 8 + 18 * 8 + 10 * 24;

absl::StatusOr<absl::Span<const char>> Part(absl::Span<const char> bytes, uint64_t offset,
                                            uint64_t size, const char* what) {
  if (offset > bytes.size() || size > bytes.size() - offset) {
    return absl::DataLossError(
        absl::StrFormat("offset 0x%x: the file ends in %s, of 0x%x bytes", offset, what, size));
  }
  return bytes.subspan(offset, size);
}

template <typename T>
absl::StatusOr<T> ReadAs(absl::Span<const char> bytes, uint64_t offset, const char* what) {
  TDP_ASSIGN_OR_RETURN(const absl::Span<const char> part, Part(bytes, offset, sizeof(T), what));
  T value;
  std::memcpy(&value, part.data(), sizeof(T));
  return value;
}

// Reads what one note segment of the file says of CPUs. Notes of others, and a last one that is cut
// off, are passed over: the memory is what matters.
void ReadNotes(absl::Span<const char> notes, std::vector<MemoryImage::CpuRegisters>& cpus) {
  const auto padded = [](uint64_t size) { return (size + 3) & ~uint64_t{3}; };
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr note;  // the same in both classes
    std::memcpy(&note, notes.data(), sizeof(note));
    const uint64_t name_size = padded(note.n_namesz);
    const uint64_t size = sizeof(note) + name_size + padded(note.n_descsz);
    if (size > notes.size()) return;
    const std::string_view name(notes.data() + sizeof(note), note.n_namesz);
    if (name.starts_with("QEMU") && note.n_descsz >= kQemuCr0Offset + 5 * 8) {
      uint64_t registers[5];
      std::memcpy(registers, notes.data() + sizeof(note) + name_size + kQemuCr0Offset,
                  sizeof(registers));
      cpus.push_back({.cr0 = registers[0], .cr3 = registers[3], .cr4 = registers[4]});
    }
    notes.remove_prefix(size);
  }
}

// A header can say at most 65,534; the first section has the number if there are more.
template <typename Elf>
absl::StatusOr<uint64_t> ProgramHeaders(absl::Span<const char> bytes,
                                        const typename Elf::Header& header) {
  if (header.e_phnum != PN_XNUM) return header.e_phnum;
  TDP_ASSIGN_OR_RETURN(const auto section, ReadAs<typename Elf::Section>(
                                               bytes, header.e_shoff, "the first section header"));
  return section.sh_info;
}

template <typename Elf>
absl::StatusOr<ElfCore> ReadClass(absl::Span<const char> bytes) {
  TDP_ASSIGN_OR_RETURN(const auto header, ReadAs<typename Elf::Header>(bytes, 0, "the ELF header"));
  if (header.e_type != ET_CORE) {
    return absl::InvalidArgumentError("offset 0x10: an ELF file that is no core");
  }
  if (header.e_machine != EM_X86_64 && header.e_machine != EM_386) {
    return absl::InvalidArgumentError(
        absl::StrFormat("offset 0x12: a core of machine %d, not of x86", header.e_machine));
  }
  TDP_ASSIGN_OR_RETURN(const uint64_t count, ProgramHeaders<Elf>(bytes, header));
  ElfCore core;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = header.e_phoff + i * sizeof(typename Elf::Program);
    TDP_ASSIGN_OR_RETURN(const auto program,
                         ReadAs<typename Elf::Program>(bytes, at, "a program header"));
    if (program.p_type != PT_LOAD && program.p_type != PT_NOTE) continue;
    TDP_ASSIGN_OR_RETURN(const absl::Span<const char> part,
                         Part(bytes, program.p_offset, program.p_filesz, "a segment"));
    if (program.p_type == PT_NOTE) {
      ReadNotes(part, core.cpus);
    } else if (!part.empty()) {
      if (program.p_paddr + part.size() < program.p_paddr) {
        return absl::InvalidArgumentError(
            absl::StrFormat("offset 0x%x: a segment reaches over the end of memory", at));
      }
      core.segments.push_back({program.p_paddr, part});
    }
  }
  return core;
}

// A core of a process has virtual addresses alone; all its physical ones are 0.
absl::Status CheckPhysical(const ElfCore& core) {
  if (core.segments.empty()) return absl::InvalidArgumentError("an ELF core without memory");
  const bool all_at_zero = std::all_of(core.segments.begin(), core.segments.end(),
                                       [](const auto& segment) { return segment.address == 0; });
  if (core.segments.size() > 1 && all_at_zero) {
    return absl::InvalidArgumentError(
        "a core whose segments have no physical addresses: of a process, not of a machine");
  }
  return absl::OkStatus();
}

}  // namespace

bool IsElf(absl::Span<const char> bytes) {
  return bytes.size() >= SELFMAG && std::memcmp(bytes.data(), ELFMAG, SELFMAG) == 0;
}

absl::StatusOr<ElfCore> ReadElfCore(absl::Span<const char> bytes) {
  TDP_ASSIGN_OR_RETURN(const absl::Span<const char> ident,
                       Part(bytes, 0, EI_NIDENT, "the ELF header"));
  if (ident[EI_DATA] != ELFDATA2LSB) {
    return absl::InvalidArgumentError("offset 0x5: not a little-endian ELF file");
  }
  if (ident[EI_CLASS] != ELFCLASS64 && ident[EI_CLASS] != ELFCLASS32) {
    return absl::InvalidArgumentError("offset 0x4: neither a 32-bit nor a 64-bit ELF file");
  }
  TDP_ASSIGN_OR_RETURN(ElfCore core, ident[EI_CLASS] == ELFCLASS64 ? ReadClass<Elf64>(bytes)
                                                                   : ReadClass<Elf32>(bytes));
  TDP_RETURN_IF_ERROR(CheckPhysical(core));
  return core;
}

}  // namespace tdp::tools
