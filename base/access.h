// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Access rights, and kinds of access, as a small set of {read, write, execute, user execute};
// and how memory is cached.

#ifndef TDP_BASE_ACCESS_H_
#define TDP_BASE_ACCESS_H_

#include <cstdint>
#include <string>

#include "tdp/base/version.h"

namespace tdp {

// A set of rights. `kExecute` is supervisor-mode execution when mode-based execute control (MBEC)
// is in use and every execution otherwise; `kUserExecute` matters only under MBEC (SDM 29.3.3.2).
class Access {
 public:
  constexpr Access() = default;

  static constexpr Access None() { return Access(); }
  static constexpr Access Read() { return Access(1); }
  static constexpr Access Write() { return Access(2); }
  static constexpr Access Execute() { return Access(4); }
  static constexpr Access UserExecute() { return Access(8); }
  static constexpr Access ReadWrite() { return Access(3); }
  static constexpr Access ReadExecute() { return Access(1 | 4 | 8); }
  static constexpr Access All() { return Access(15); }
  // Makes a set of bits as `raw()` gives them; others are dropped.
  static constexpr Access FromRaw(uint8_t raw) { return Access(raw & 15); }

  constexpr bool can_read() const { return (bits_ & 1) != 0; }
  constexpr bool can_write() const { return (bits_ & 2) != 0; }
  constexpr bool can_execute() const { return (bits_ & 4) != 0; }
  constexpr bool can_user_execute() const { return (bits_ & 8) != 0; }
  constexpr bool is_empty() const { return bits_ == 0; }
  // Returns whether what a guest tried is a write, perhaps with a read, and no fetch.
  constexpr bool is_data_write() const { return (bits_ & ~1) == 2; }

  // Returns whether every right of `other` is in this set.
  constexpr bool Covers(Access other) const { return (other.bits_ & ~bits_) == 0; }

  constexpr Access Without(Access other) const { return Access(bits_ & ~other.bits_); }
  constexpr uint8_t raw() const { return bits_; }

  friend constexpr Access operator|(Access a, Access b) { return Access(a.bits_ | b.bits_); }
  friend constexpr Access operator&(Access a, Access b) { return Access(a.bits_ & b.bits_); }
  friend constexpr bool operator==(Access, Access) = default;

  // Returns "rwxu" with '-' for what is missing.
  friend std::string ToString(Access access) {
    std::string text = "rwxu";
    for (unsigned i = 0; i < 4; ++i) {
      if ((access.bits_ >> i & 1) == 0) text[i] = '-';
    }
    return text;
  }
  template <typename Sink>
  friend void AbslStringify(Sink& sink, Access access) {
    sink.Append(ToString(access));
  }
  template <typename Stream>
  friend Stream& operator<<(Stream& out, Access access) {
    out << ToString(access);
    return out;
  }

 private:
  constexpr explicit Access(int bits) : bits_(static_cast<uint8_t>(bits)) {}

  uint8_t bits_ = 0;
};

// x86 memory types as in EPT leaves, MTRRs and the PAT (SDM vol. 3A, table 12-2); 2, 3 and 7
// are reserved, a misconfiguration in an EPT leaf.
enum class MemoryType : uint8_t {
  kUncacheable = 0,
  kWriteCombining = 1,
  kWriteThrough = 4,
  kWriteProtected = 5,
  kWriteBack = 6,
};

constexpr bool IsValidMemoryType(uint64_t encoding) {
  return encoding <= 6 && encoding != 2 && encoding != 3;
}

}  // namespace tdp

#endif  // TDP_BASE_ACCESS_H_
