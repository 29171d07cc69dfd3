// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A copy of the guest's memory that the dirty log keeps true.

#ifndef TDP_EXAMPLES_LINUX_MEMORY_COPY_H_
#define TDP_EXAMPLES_LINUX_MEMORY_COPY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "tdp/examples/linux/linux_guest.h"

namespace tdp::linux_example {

class MemoryCopy {
 public:
  // The copy goes to `to`, which is as large as the guest's memory.
  MemoryCopy(LinuxGuest& guest, Hva to) : guest_(guest), to_(to) {}

  void CopyAll();
  // Copies page `base` + i for every bit i of `mask`.
  void CopyPages(uint64_t base, uint64_t mask);
  // Copies the other way: the pages become what the copy has. Returns how many they were.
  uint64_t PutBack(uint64_t base, uint64_t mask) const;
  // Linux does not run. DataLoss, with their number, if pages differ.
  absl::Status Compare() const;
  uint64_t pages() const { return pages_; }

 private:
  const uint8_t* Source(uint64_t page) const {
    return guest_.host().PageAt(guest_.ram() + page * kPageSize);
  }
  uint8_t* Target(uint64_t page) const {
    return reinterpret_cast<uint8_t*>((to_ + page * kPageSize).raw());
  }

  LinuxGuest& guest_;
  const Hva to_;
  uint64_t pages_ = 0;  // copied so far
};

// Switches the dirty log on and copies everything.
absl::Status StartCopy(LinuxGuest& guest, MemoryCopy& copy);
// Copies what was written since the last time.
absl::Status CopyDirty(LinuxGuest& guest, MemoryCopy& copy);

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_MEMORY_COPY_H_
