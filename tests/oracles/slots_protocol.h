// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The engine and the software CPU answer questions here about recorded slot changes, dirty logs and
// guest accesses.

#ifndef TDP_TESTS_ORACLES_SLOTS_PROTOCOL_H_
#define TDP_TESTS_ORACLES_SLOTS_PROTOCOL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/mmu/vm_options.h"
#include "tests/oracles/slot_machine.h"

namespace tdp::oracles {

// Returns "0" or the name of the errno that KVM answers with where the library answers with
// `status`.
std::string ErrnoOf(const absl::Status& status);

class SlotsProtocol {
 public:
  explicit SlotsProtocol(DirtyTracking tracking = DirtyTracking::kWriteProtection)
      : machine_(tracking) {}

  // Returns the answer to one line. InvalidArgument if it is no question of this protocol.
  absl::StatusOr<std::string> Answer(std::string_view line);

  SlotMachine& machine() { return machine_; }

 private:
  using Words = std::vector<std::string_view>;

  absl::StatusOr<std::string> Set(const Words& words);
  absl::StatusOr<std::string> GetLog(const Words& words);
  absl::StatusOr<std::string> ClearLog(const Words& words);
  absl::StatusOr<std::string> Manual(const Words& words);
  absl::StatusOr<std::string> Fill(const Words& words);
  absl::StatusOr<std::string> Read(const Words& words);
  absl::StatusOr<std::string> Write(const Words& words);
  absl::StatusOr<std::string> Poke(const Words& words);
  absl::StatusOr<std::string> Peek(const Words& words);
  absl::StatusOr<std::string> LoadCr3(const Words& words);
  absl::StatusOr<std::string> ReadLinear(const Words& words);
  absl::StatusOr<std::string> WriteLinear(const Words& words);

  SlotMachine machine_;
  uint64_t cr3_ = 0;
  bool write_protect_ = false;
};

}  // namespace tdp::oracles

#endif  // TDP_TESTS_ORACLES_SLOTS_PROTOCOL_H_
