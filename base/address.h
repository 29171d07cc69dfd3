// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The addresses and frame numbers of two-dimensional paging, each a type of its own.
//
// A guest access goes gva -> gpa (guest tables) -> hpa (EPT); the host reaches the same memory at
// an hva. Mixing two of them up is the classic bug of an MMU, so none converts to another:
// `Hpa(gpa)` and `Gfn(1) + Gfn(2)` do not compile. A frame number counts 4 KiB frames; a point and
// a distance are different types too (`Gfn - Gfn` is a `PageCount`, `Gpa - Gpa` is a `ByteCount`).

#ifndef TDP_BASE_ADDRESS_H_
#define TDP_BASE_ADDRESS_H_

#include "tdp/base/version.h"  // first: an older language gets one clear line

#include <compare>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"

namespace tdp {

inline constexpr int kPageShift = 12;
inline constexpr uint64_t kPageSize = uint64_t{1} << kPageShift;
inline constexpr uint64_t kPageOffsetMask = kPageSize - 1;

// A distance in bytes.
using ByteCount = uint64_t;

constexpr ByteCount KiB(uint64_t n) { return n << 10; }
constexpr ByteCount MiB(uint64_t n) { return n << 20; }
constexpr ByteCount GiB(uint64_t n) { return n << 30; }
constexpr ByteCount TiB(uint64_t n) { return n << 40; }

// A distance in 4 KiB pages. The constructor is explicit, `raw()` gives the number, and between
// them arithmetic is that of unsigned numbers.
class PageCount {
 public:
  constexpr PageCount() = default;
  constexpr explicit PageCount(uint64_t pages) : pages_(pages) {}

  // Returns the number of whole pages in `bytes`; a remainder is dropped.
  static constexpr PageCount FromBytes(ByteCount bytes) { return PageCount(bytes >> kPageShift); }

  constexpr uint64_t raw() const { return pages_; }
  constexpr ByteCount bytes() const { return pages_ << kPageShift; }

  constexpr PageCount& operator+=(PageCount other) { return *this = *this + other; }
  constexpr PageCount& operator-=(PageCount other) { return *this = *this - other; }

  friend constexpr PageCount operator+(PageCount a, PageCount b) {
    return PageCount(a.pages_ + b.pages_);
  }
  friend constexpr PageCount operator-(PageCount a, PageCount b) {
    return PageCount(a.pages_ - b.pages_);
  }
  friend constexpr auto operator<=>(PageCount, PageCount) = default;

  template <typename H>
  friend H AbslHashValue(H h, PageCount c) {
    return H::combine(std::move(h), c.pages_);
  }
  template <typename Sink>
  friend void AbslStringify(Sink& sink, PageCount c) {
    sink.Append(std::to_string(c.pages_));
  }

 private:
  uint64_t pages_ = 0;
};

// Holds what `Address` and `Frame` share: one word, ordered, hashable, printable in hexadecimal.
template <typename Self>
class AddressWord {
 public:
  constexpr AddressWord() = default;
  constexpr explicit AddressWord(uint64_t raw) : raw_(raw) {}

  constexpr uint64_t raw() const { return raw_; }

  friend constexpr auto operator<=>(AddressWord, AddressWord) = default;

  template <typename H>
  friend H AbslHashValue(H h, const Self& word) {
    return H::combine(std::move(h), word.raw());
  }
  // Newer Abseil prints through this; `ToString` serves every version.
  template <typename Sink>
  friend void AbslStringify(Sink& sink, const Self& word) {
    sink.Append(ToString(word));
  }
  friend std::string ToString(const Self& word) { return absl::StrFormat("0x%x", word.raw()); }

  // Lets GoogleTest print the word.
  template <typename Stream>
  friend Stream& operator<<(Stream& out, const Self& word) {
    out << ToString(word);
    return out;
  }

 private:
  uint64_t raw_ = 0;
};

// A byte address in one address space.
template <typename Space>
class Address : public AddressWord<Address<Space>> {
 public:
  using AddressWord<Address>::AddressWord;

  constexpr uint64_t page_offset() const { return this->raw() & kPageOffsetMask; }
  constexpr bool is_page_aligned() const { return page_offset() == 0; }
  // Returns whether the address is a multiple of `bytes`, which is a power of two.
  constexpr bool is_aligned(ByteCount bytes) const { return (this->raw() & (bytes - 1)) == 0; }
  constexpr Address AlignDown(ByteCount bytes) const { return Address(this->raw() & ~(bytes - 1)); }

  friend constexpr Address operator+(Address a, ByteCount n) { return Address(a.raw() + n); }
  friend constexpr Address operator-(Address a, ByteCount n) { return Address(a.raw() - n); }
  friend constexpr ByteCount operator-(Address a, Address b) { return a.raw() - b.raw(); }
};

// The number of a 4 KiB frame in one address space.
template <typename Space>
class Frame : public AddressWord<Frame<Space>> {
 public:
  using AddressWord<Frame>::AddressWord;

  // Returns the frame that holds `address`.
  static constexpr Frame Of(Address<Space> address) { return Frame(address.raw() >> kPageShift); }

  constexpr Address<Space> address() const { return Address<Space>(this->raw() << kPageShift); }
  constexpr bool is_aligned(PageCount pages) const {
    return (this->raw() & (pages.raw() - 1)) == 0;
  }
  // Returns the last multiple of `pages`, a power of two, that is not above this frame.
  constexpr Frame AlignDown(PageCount pages) const {
    return Frame(this->raw() & ~(pages.raw() - 1));
  }

  constexpr Frame& operator+=(PageCount n) { return *this = *this + n; }

  friend constexpr Frame operator+(Frame f, PageCount n) { return Frame(f.raw() + n.raw()); }
  friend constexpr Frame operator-(Frame f, PageCount n) { return Frame(f.raw() - n.raw()); }
  friend constexpr PageCount operator-(Frame a, Frame b) { return PageCount(a.raw() - b.raw()); }
};

namespace internal {
struct GuestVirtual;
struct GuestPhysical;
struct HostVirtual;
struct HostPhysical;
}  // namespace internal

using Gva = Address<internal::GuestVirtual>;
using Gpa = Address<internal::GuestPhysical>;
using Hva = Address<internal::HostVirtual>;
using Hpa = Address<internal::HostPhysical>;
using Gfn = Frame<internal::GuestPhysical>;
using Hfn = Frame<internal::HostPhysical>;

}  // namespace tdp

#endif  // TDP_BASE_ADDRESS_H_
