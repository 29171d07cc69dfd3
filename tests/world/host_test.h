// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tests that need no CPU have this fixture: each exit is a call, and the test decides what the host
// answers.

#ifndef TDP_TESTS_WORLD_HOST_TEST_H_
#define TDP_TESTS_WORLD_HOST_TEST_H_

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/world/host_world.h"

namespace tdp {

template <typename Host>
class HostTestOn : public testing::Test, protected HostWorldOn<Host> {
 protected:
  void TearDown() override {
    if (this->vm_ != nullptr) {
      EXPECT_EQ(this->vm_->CheckInvariants(), absl::OkStatus());
    }
  }
};

using HostTest = HostTestOn<TestHost>;

}  // namespace tdp

#endif  // TDP_TESTS_WORLD_HOST_TEST_H_
