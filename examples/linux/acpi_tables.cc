// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/acpi_tables.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace tdp::linux_example {
namespace {

// Bytes of a table, little-endian, one field after another.
class Table {
 public:
  Table& Text(std::string_view text) {
    bytes_.append(text);
    return *this;
  }
  template <typename T>
  Table& Number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  Table& Zeros(size_t count) {
    bytes_.append(count, '\0');
    return *this;
  }
  // Makes the first `size` bytes add up to 0 by the byte at `where`.
  void Seal(size_t where, size_t size) {
    uint8_t sum = 0;
    for (size_t i = 0; i < size; ++i) sum += static_cast<uint8_t>(bytes_[i]);
    bytes_[where] = static_cast<char>(bytes_[where] - sum);
  }
  void WriteTo(absl::Span<uint8_t> ram, uint64_t at) const {
    memcpy(ram.data() + at, bytes_.data(), bytes_.size());
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Makes a system description table: the header that they all have, and its body.
Table Description(std::string_view signature, uint8_t revision, const Table& body) {
  constexpr uint32_t kHeaderBytes = 36;
  constexpr size_t kChecksum = 9;
  Table table;
  table.Text(signature)
      .Number<uint32_t>(kHeaderBytes + static_cast<uint32_t>(body.bytes().size()))
      .Number<uint8_t>(revision)
      .Number<uint8_t>(0)  // the checksum
      .Text("LIBTDP")
      .Text("EXAMPLE ")
      .Number<uint32_t>(1)
      .Text("TDP ")
      .Number<uint32_t>(1)
      .Text(body.bytes());
  table.Seal(kChecksum, table.bytes().size());
  return table;
}

// Multiple APIC description table: the machine also has a pair of 8259 controllers.
Table LocalApics(int cpus) {
  constexpr uint32_t kLocalApicAddress = 0xfee00000, kHas8259 = 1, kEnabled = 1;
  Table body;
  body.Number(kLocalApicAddress).Number(kHas8259);
  for (int cpu = 0; cpu < cpus; ++cpu) {
    body.Number<uint8_t>(0).Number<uint8_t>(8);  // a local APIC, in eight bytes
    body.Number(static_cast<uint8_t>(cpu)).Number(static_cast<uint8_t>(cpu)).Number(kEnabled);
  }
  return Description("APIC", 1, body);
}

Table RootPointer(uint64_t tables) {
  constexpr uint32_t kBytes = 36, kBytesOfFirstRevision = 20;
  constexpr size_t kChecksum = 8, kExtendedChecksum = 32;
  Table table;
  table.Text("RSD PTR ").Number<uint8_t>(0).Text("LIBTDP").Number<uint8_t>(2);
  table.Number<uint32_t>(0).Number(kBytes).Number(tables).Zeros(4);
  table.Seal(kChecksum, kBytesOfFirstRevision);
  table.Seal(kExtendedChecksum, kBytes);
  return table;
}

}  // namespace

void WriteAcpiTables(absl::Span<uint8_t> ram, int cpus) {
  constexpr uint64_t kRootTable = kAcpiRootPointer + 0x100;
  constexpr uint64_t kLocalApics = kAcpiRootPointer + 0x200;
  RootPointer(kRootTable).WriteTo(ram, kAcpiRootPointer);
  Table tables;
  tables.Number(kLocalApics);
  Description("XSDT", 1, tables).WriteTo(ram, kRootTable);
  LocalApics(cpus).WriteTo(ram, kLocalApics);
}

}  // namespace tdp::linux_example
