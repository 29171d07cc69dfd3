// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Nobody can touch this memory from `new` once it was deleted: every object has pages of its own,
// which go with it and are never given out again. It is for small programs under the scheduler,
// whose fibers no sanitizer of addresses can follow. Linked in, it replaces `new` and `delete`.

#ifndef TDP_TESTS_EXPLORE_FENCED_MEMORY_H_
#define TDP_TESTS_EXPLORE_FENCED_MEMORY_H_

#include <string_view>

namespace tdp::explore {

// Fences what is made anew while it lives. A touch of what is deleted after `Close` ends the
// process with a message that names `what`, which outlives it.
class FencedMemory {
 public:
  explicit FencedMemory(std::string_view what);
  ~FencedMemory();
  void Close();
  FencedMemory(const FencedMemory&) = delete;
  FencedMemory& operator=(const FencedMemory&) = delete;
};

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_FENCED_MEMORY_H_
