// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// memcpy and its kin for freestanding programs. They go by words, many in each turn of a loop, and
// use neither vector registers, which freestanding code leaves alone, nor REP: to the emulator each
// of its iterations is an instruction that has to be found anew.

#include <cstddef>
#include <cstdint>
#include <utility>

namespace {

// May lie over anything and anywhere.
using Word [[gnu::may_alias, gnu::aligned(1)]] = uint64_t;

using OneWord = std::make_index_sequence<1>;
using Block = std::make_index_sequence<8>;
constexpr size_t kBlockBytes = Block::size() * sizeof(Word);

// Stores are volatile, or compilers see a memcpy in the loop of memcpy and call it.
inline void PutByte(void* to, int byte) {
  *static_cast<volatile unsigned char*>(to) = static_cast<unsigned char>(byte);
}
inline void PutWord(Word* to, uint64_t word) { *const_cast<volatile Word*>(to) = word; }

template <size_t... I>
inline void Copy(void* to, const void* from, std::index_sequence<I...>) {
  (PutWord(static_cast<Word*>(to) + I, static_cast<const Word*>(from)[I]), ...);
}

template <size_t... I>
inline void Fill(void* to, uint64_t word, std::index_sequence<I...>) {
  (PutWord(static_cast<Word*>(to) + I, word), ...);
}

template <size_t... I>
inline bool IsEqual(const void* a, const void* b, std::index_sequence<I...>) {
  const auto* const x = static_cast<const Word*>(a);
  const auto* const y = static_cast<const Word*>(b);
  return ((x[I] == y[I]) && ...);
}

}  // namespace

extern "C" {

void* memcpy(void* to, const void* from, size_t n) {
  auto* out = static_cast<unsigned char*>(to);
  const auto* in = static_cast<const unsigned char*>(from);
  for (; n >= kBlockBytes; n -= kBlockBytes, out += kBlockBytes, in += kBlockBytes) {
    Copy(out, in, Block());
  }
  for (; n >= sizeof(Word); n -= sizeof(Word), out += sizeof(Word), in += sizeof(Word)) {
    Copy(out, in, OneWord());
  }
  for (; n != 0; --n) PutByte(out++, *in++);
  return to;
}

void* memmove(void* to, const void* from, size_t n) {
  if (to <= from) return memcpy(to, from, n);
  auto* const out = static_cast<unsigned char*>(to);
  while (n-- != 0) PutByte(out + n, static_cast<const unsigned char*>(from)[n]);
  return to;
}

void* memset(void* to, int value, size_t n) {
  const uint64_t word = 0x0101010101010101 * static_cast<uint8_t>(value);
  auto* out = static_cast<unsigned char*>(to);
  for (; n >= kBlockBytes; n -= kBlockBytes, out += kBlockBytes) Fill(out, word, Block());
  for (; n >= sizeof(Word); n -= sizeof(Word), out += sizeof(Word)) Fill(out, word, OneWord());
  for (; n != 0; --n) PutByte(out++, value);
  return to;
}

int memcmp(const void* a, const void* b, size_t n) {
  const auto* x = static_cast<const unsigned char*>(a);
  const auto* y = static_cast<const unsigned char*>(b);
  for (; n >= kBlockBytes && IsEqual(x, y, Block()); n -= kBlockBytes) {
    x += kBlockBytes;
    y += kBlockBytes;
  }
  for (; n != 0; --n, ++x, ++y) {
    if (*x != *y) return *x - *y;
  }
  return 0;
}

// std::string and std::string_view look for characters with it.
void* memchr(const void* bytes, int byte, size_t n) {
  const auto* at = static_cast<const unsigned char*>(bytes);
  for (; n != 0; --n, ++at) {
    if (*at == static_cast<unsigned char>(byte)) return const_cast<unsigned char*>(at);
  }
  return nullptr;
}

}  // extern "C"
