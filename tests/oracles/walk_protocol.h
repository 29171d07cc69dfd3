// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The software CPU answers recorded EPT and guest walks here (tests/oracles/walk_lines.h).

#ifndef TDP_TESTS_ORACLES_WALK_PROTOCOL_H_
#define TDP_TESTS_ORACLES_WALK_PROTOCOL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "tdp/backends/sim/cpu.h"
#include "tests/oracles/sparse_memory.h"
#include "tests/oracles/walk_lines.h"

namespace tdp::oracles {

class WalkProtocol : public WalkLines {
 public:
  WalkProtocol() { WalkProtocol::Reset(); }

 private:
  void Reset() override;
  void StoreWord(uint64_t address, uint64_t value) override;
  void StorePage(uint64_t address, const char* bytes) override;
  bool Set(std::string_view name, uint64_t value) override;
  std::string Walk(const WalkLine& line) override;
  std::string Linear(const LinearLine& line) override;
  std::string LoadPdptes() override;
  bool IsValidEptp(Eptp eptp) override;
  std::string Tail() override;

  void Configure();
  std::string EventText(sim::Event event, bool with_gpa) const;

  SparseMemory memory_;
  std::unique_ptr<sim::Cpu> cpu_;
  sim::CpuFeatures features_;
  sim::Controls controls_;
  sim::Registers registers_;
  Eptp eptp_;
  bool stale_ = true;  // settings changed since the CPU was configured
};

}  // namespace tdp::oracles

#endif  // TDP_TESTS_ORACLES_WALK_PROTOCOL_H_
