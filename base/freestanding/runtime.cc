// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Defines what the compiler's output and the headers of the standard library expect of a C++
// run-time library, over the platform. Every definition is weak: an embedder that has its own,
// operator new for example, keeps that.

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "tdp/base/platform.h"

#define TDP_WEAK __attribute__((weak))
// The headers of the standard library declare these so: clang takes no [[noreturn]] after it.
#define TDP_FAILS __attribute__((weak, noreturn))

namespace {

constexpr size_t kDefaultAlignment = __STDCPP_DEFAULT_NEW_ALIGNMENT__;

// Gives out small pieces of memory for a moment: where memory has run out, the text of the error
// that says so is still put together.
class Reserve {
 public:
  // Returns null if `bytes` is too much or everything is in use.
  void* Take(size_t bytes, size_t alignment) {
    if (bytes > kPieceBytes || alignment > kPieceBytes) return nullptr;
    uint32_t taken = taken_.load(std::memory_order_relaxed);
    while (taken != kAllTaken) {
      const int piece = std::countr_one(taken);
      if (taken_.compare_exchange_weak(taken, taken | uint32_t{1} << piece,
                                       std::memory_order_acquire)) {
        return pieces_[piece].bytes;
      }
    }
    return nullptr;
  }
  // Takes `memory` back, and returns whether it was from here.
  bool Return(void* memory) {
    const uintptr_t offset =
        reinterpret_cast<uintptr_t>(memory) - reinterpret_cast<uintptr_t>(pieces_);
    if (offset >= sizeof(pieces_)) return false;
    taken_.fetch_and(~(uint32_t{1} << offset / kPieceBytes), std::memory_order_release);
    return true;
  }

 private:
  static constexpr size_t kPieceBytes = 256;
  struct alignas(kPieceBytes) Piece {
    unsigned char bytes[kPieceBytes];
  };
  static constexpr uint32_t kAllTaken = 0xffff;
  Piece pieces_[16] = {};
  std::atomic<uint32_t> taken_{0};
};

constinit Reserve reserve;

void* AllocateOrNull(size_t bytes, size_t alignment) {
  return tdp_platform_allocate(bytes == 0 ? 1 : bytes, alignment);
}

void* Allocate(size_t bytes, size_t alignment) {
  if (void* memory = AllocateOrNull(bytes, alignment)) return memory;
  if (void* memory = reserve.Take(bytes, alignment)) return memory;
  tdp_platform_panic("libtdp: out of memory");
}

void Free(void* memory) {
  if (memory != nullptr && !reserve.Return(memory)) tdp_platform_free(memory);
}

}  // namespace

TDP_WEAK void* operator new(size_t bytes) { return Allocate(bytes, kDefaultAlignment); }
TDP_WEAK void* operator new[](size_t bytes) { return Allocate(bytes, kDefaultAlignment); }
TDP_WEAK void* operator new(size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<size_t>(alignment));
}
TDP_WEAK void* operator new[](size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<size_t>(alignment));
}
TDP_WEAK void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return AllocateOrNull(bytes, kDefaultAlignment);
}
TDP_WEAK void* operator new[](size_t bytes, const std::nothrow_t&) noexcept {
  return AllocateOrNull(bytes, kDefaultAlignment);
}
TDP_WEAK void* operator new(size_t bytes, std::align_val_t alignment,
                            const std::nothrow_t&) noexcept {
  return AllocateOrNull(bytes, static_cast<size_t>(alignment));
}
TDP_WEAK void* operator new[](size_t bytes, std::align_val_t alignment,
                              const std::nothrow_t&) noexcept {
  return AllocateOrNull(bytes, static_cast<size_t>(alignment));
}

TDP_WEAK void operator delete(void* memory) noexcept { Free(memory); }
TDP_WEAK void operator delete[](void* memory) noexcept { Free(memory); }
TDP_WEAK void operator delete(void* memory, size_t) noexcept { Free(memory); }
TDP_WEAK void operator delete[](void* memory, size_t) noexcept { Free(memory); }
TDP_WEAK void operator delete(void* memory, std::align_val_t) noexcept { Free(memory); }
TDP_WEAK void operator delete[](void* memory, std::align_val_t) noexcept { Free(memory); }
TDP_WEAK void operator delete(void* memory, size_t, std::align_val_t) noexcept { Free(memory); }
TDP_WEAK void operator delete[](void* memory, size_t, std::align_val_t) noexcept { Free(memory); }

extern "C" {

TDP_WEAK void __cxa_pure_virtual() { tdp_platform_panic("libtdp: pure virtual function called"); }

// glibc's word for "there are no threads", by which std::shared_ptr counts without atomics.
TDP_WEAK char __libc_single_threaded = 0;

// Takes the place of libgcc's, where the CPU is not known to have POPCNT.
TDP_WEAK int __popcountdi2(int64_t value) {
  auto bits = static_cast<uint64_t>(value);
  bits -= bits >> 1 & 0x5555'5555'5555'5555;
  bits = (bits & 0x3333'3333'3333'3333) + (bits >> 2 & 0x3333'3333'3333'3333);
  bits = (bits + (bits >> 4)) & 0x0f0f'0f0f'0f0f'0f0f;
  return static_cast<int>(bits * 0x0101'0101'0101'0101 >> 56);
}

TDP_WEAK size_t strlen(const char* text) {
  const char* end = text;
  while (*end != 0) {
    ++end;
    __asm__("" : "+r"(end));  // or the compiler sees a strlen in this loop
  }
  return static_cast<size_t>(end - text);
}

}  // extern "C"

// libstdc++'s headers report misuse of a container through these.
namespace std {

TDP_WEAK extern const nothrow_t nothrow{};

TDP_FAILS void __throw_length_error(const char* what) { tdp_platform_panic(what); }
TDP_FAILS void __throw_logic_error(const char* what) { tdp_platform_panic(what); }
TDP_FAILS void __throw_out_of_range_fmt(const char* what, ...) { tdp_platform_panic(what); }
TDP_FAILS void __throw_bad_alloc() { tdp_platform_panic("libtdp: out of memory"); }
TDP_FAILS void __throw_bad_array_new_length() {
  tdp_platform_panic("libtdp: an array is too long");
}
TDP_FAILS void __throw_bad_function_call() {
  tdp_platform_panic("libtdp: call of an empty std::function");
}

#if defined(__GLIBCXX__)
static_assert(__gnu_cxx::__default_lock_policy != __gnu_cxx::_S_single,
              "this compiler is built without threads: its std::shared_ptr counts without atomics");

// std::make_shared finds itself by type with this; what it asks for is found by address before.
TDP_WEAK bool _Sp_make_shared_tag::_S_eq(const type_info&) noexcept { return false; }
#endif

}  // namespace std
