// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/fenced_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "tdp/base/check.h"

namespace tdp::explore {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHead = 64;
// So many addresses are set aside; memory comes with the first touch and goes with `delete`.
constexpr size_t kBytes = size_t{1} << 38;

std::byte* begin = nullptr;
std::atomic<size_t> used = 0;
std::atomic<bool> fences = false;
bool is_closed = false;
std::string_view fenced_for;

bool IsFenced(const void* place) {
  const auto* at = static_cast<const std::byte*>(place);
  return begin != nullptr && at >= begin && at < begin + kBytes;
}

// One instruction takes what is next, so that a thread which is stopped between any two of its
// instructions is in the way of nobody. The pages stand before the object, at the begin of its own.
void* Allocate(size_t size, size_t alignment) {
  if (!fences.load(std::memory_order_relaxed)) {
    return alignment <= alignof(std::max_align_t)
               ? std::malloc(size)
               : std::aligned_alloc(alignment, (size + alignment - 1) & ~(alignment - 1));
  }
  TDP_CHECK(alignment <= kPage);
  const size_t head = alignment <= kHead ? kHead : kPage;
  const size_t pages = (head + size + kPage - 1) / kPage;
  const size_t at = used.fetch_add(pages * kPage);
  TDP_CHECK(at + pages * kPage <= kBytes);
  *reinterpret_cast<size_t*>(begin + at) = pages;
  return begin + at + head;
}

void Free(void* place) {
  if (!IsFenced(place)) return std::free(place);
  if (!is_closed) return;
  const size_t offset = (static_cast<std::byte*>(place) - begin) % kPage;
  std::byte* const first = static_cast<std::byte*>(place) - (offset == 0 ? kPage : kHead);
  const size_t pages = *reinterpret_cast<size_t*>(first);
  TDP_CHECK(mmap(first, pages * kPage, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == first);
}

void OnTouch(int, siginfo_t* info, void*) {
  if (!IsFenced(info->si_addr)) _exit(1);
  const auto say = [](std::string_view text) {
    if (write(STDERR_FILENO, text.data(), text.size()) < 0) _exit(1);
  };
  say("freed memory was touched: ");
  say(fenced_for);
  say("\n");
  _exit(1);
}

}  // namespace

FencedMemory::FencedMemory(std::string_view what) {
  if (begin == nullptr) {
    void* const mapping = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TDP_CHECK(mapping != MAP_FAILED);
    // A few bytes of each page are used.
    TDP_CHECK(madvise(mapping, kBytes, MADV_NOHUGEPAGE) == 0);
    begin = static_cast<std::byte*>(mapping);
  }
  struct sigaction action = {};
  action.sa_sigaction = OnTouch;
  action.sa_flags = SA_SIGINFO;
  TDP_CHECK(sigaction(SIGSEGV, &action, nullptr) == 0);
  fenced_for = what;
  fences = true;
}

void FencedMemory::Close() { is_closed = true; }

FencedMemory::~FencedMemory() {
  fences = is_closed = false;
  signal(SIGSEGV, SIG_DFL);
}

}  // namespace tdp::explore

void* operator new(size_t size) { return tdp::explore::Allocate(size, alignof(std::max_align_t)); }
void* operator new(size_t size, std::align_val_t alignment) {
  return tdp::explore::Allocate(size, static_cast<size_t>(alignment));
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return tdp::explore::Allocate(size, alignof(std::max_align_t));
}
void* operator new(size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return tdp::explore::Allocate(size, static_cast<size_t>(alignment));
}
void operator delete(void* place) noexcept { tdp::explore::Free(place); }
void operator delete(void* place, size_t) noexcept { tdp::explore::Free(place); }
void operator delete(void* place, std::align_val_t) noexcept { tdp::explore::Free(place); }
void operator delete(void* place, size_t, std::align_val_t) noexcept { tdp::explore::Free(place); }
