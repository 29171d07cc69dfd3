// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding".

#ifndef TDP_BASE_FREESTANDING_ABSL_STATUS_STATUS_H_
#define TDP_BASE_FREESTANDING_ABSL_STATUS_STATUS_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <string_view>
#include <utility>

namespace absl {
inline namespace tdp_stand_in {

// The codes have Abseil's numbers.
enum class StatusCode : int {
  kOk = 0,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
};

// One word: 0 if all is well. The text of an error lives in memory that copies share; where there
// is none left, the error has its code and no text.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string_view message)
      : word_(code == StatusCode::kOk ? 0 : Make(code, message)) {}
  Status(const Status& other) : word_(other.word_) { Share(); }
  Status(Status&& other) noexcept : word_(std::exchange(other.word_, 0)) {}
  Status& operator=(Status other) noexcept {
    std::swap(word_, other.word_);
    return *this;
  }
  ~Status() {
    if (HasText()) Drop(text());
  }

  bool ok() const { return word_ == 0; }
  StatusCode code() const { return HasText() ? text()->code : static_cast<StatusCode>(word_ >> 1); }
  std::string_view message() const {
    return HasText() ? std::string_view(text()->bytes(), text()->size) : std::string_view();
  }
  void IgnoreError() const {}
  std::string ToString() const { return ok() ? "OK" : std::string(message()); }
  // The first error stays.
  void Update(const Status& other) {
    if (ok()) *this = other;
  }

  friend bool operator==(const Status& a, const Status& b) {
    return a.code() == b.code() && a.message() == b.message();
  }

 private:
  struct Text {
    std::atomic<int> owners;
    StatusCode code;
    size_t size;
    char* bytes() { return reinterpret_cast<char*>(this + 1); }
  };

  bool HasText() const { return word_ != 0 && (word_ & 1) == 0; }
  Text* text() const { return reinterpret_cast<Text*>(word_); }
  void Share() {
    if (HasText()) text()->owners.fetch_add(1, std::memory_order_relaxed);
  }

  __attribute__((noinline)) static uintptr_t Make(StatusCode code, std::string_view message) {
    void* memory =
        message.empty() ? nullptr : ::operator new(sizeof(Text) + message.size(), std::nothrow);
    if (memory == nullptr) return static_cast<uintptr_t>(code) << 1 | 1;
    Text* text = ::new (memory) Text{{1}, code, message.size()};
    std::copy(message.begin(), message.end(), text->bytes());
    return reinterpret_cast<uintptr_t>(text);
  }
  __attribute__((noinline)) static void Drop(Text* text) {
    if (text->owners.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    text->~Text();
    ::operator delete(static_cast<void*>(text));
  }

  uintptr_t word_ = 0;  // odd: twice the code, and 1
};

inline Status OkStatus() { return Status(); }

#define TDP_STAND_IN_ERROR(Name)                        \
  inline Status Name##Error(std::string_view message) { \
    return Status(StatusCode::k##Name, message);        \
  }                                                     \
  inline bool Is##Name(const Status& status) { return status.code() == StatusCode::k##Name; }
TDP_STAND_IN_ERROR(Unknown)
TDP_STAND_IN_ERROR(InvalidArgument)
TDP_STAND_IN_ERROR(DeadlineExceeded)
TDP_STAND_IN_ERROR(NotFound)
TDP_STAND_IN_ERROR(AlreadyExists)
TDP_STAND_IN_ERROR(PermissionDenied)
TDP_STAND_IN_ERROR(ResourceExhausted)
TDP_STAND_IN_ERROR(FailedPrecondition)
TDP_STAND_IN_ERROR(Aborted)
TDP_STAND_IN_ERROR(OutOfRange)
TDP_STAND_IN_ERROR(Unimplemented)
TDP_STAND_IN_ERROR(Internal)
TDP_STAND_IN_ERROR(Unavailable)
TDP_STAND_IN_ERROR(DataLoss)
#undef TDP_STAND_IN_ERROR

}  // namespace tdp_stand_in
}  // namespace absl

#endif  // TDP_BASE_FREESTANDING_ABSL_STATUS_STATUS_H_
