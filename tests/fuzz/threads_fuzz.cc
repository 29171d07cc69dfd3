// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Bytes become a scenario of the explorer and a schedule of it: which operations run beside the
// vCPUs, and who goes on when. Random schedules know nothing of the code; coverage leads these to
// the places where threads meet. They are judged as the explorer judges: by the flat model, the
// flush oracle, the promises of the headers. A crash prints the test that replays it.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "tests/explore/campaign.h"
#include "tests/explore/fiber_scheduler.h"
#include "tests/explore/scenario.h"
#include "tests/explore/search.h"
#include "tests/explore/strategy.h"
#include "tests/fuzz/input_bytes.h"

namespace tdp::explore {
namespace {

using fuzz::InputBytes;

// Lets two bytes say how many steps the thread at hand goes on, and which is next. After the last
// byte threads run one after the other.
class ByteStrategy : public Strategy {
 public:
  explicit ByteStrategy(InputBytes bytes) : bytes_(bytes) { Plan(0); }

  int Choose(const Situation& situation) override {
    if (is_over_ || situation.step < switch_at_) return DefaultThread(situation);
    const uint32_t turn = pick_;
    Plan(situation.step);
    ThreadSet others = situation.able & ~(ThreadSet{1} << situation.current);
    if (others == 0) return DefaultThread(situation);
    for (auto skip = turn % static_cast<uint32_t>(__builtin_popcount(others)); skip > 0; --skip) {
      others &= others - 1;
    }
    return __builtin_ctz(others);
  }

  // Every fourth load or so may see an old value, by the bits of a byte that is read as needed.
  int ChooseAge(uint64_t /*step*/, int values) override {
    if (ages_ <= 1) ages_ = bytes_.Take<uint8_t>() | 0x100u;
    const bool is_old = (ages_ & 3) == 3;
    ages_ >>= 2;
    return is_old ? values - 1 : 0;
  }

 private:
  void Plan(uint64_t step) {
    is_over_ = bytes_.empty();
    const uint32_t word = bytes_.Take<uint8_t>();
    // Races are found by short ways, and reached by long ones.
    const uint64_t gap = word < 192 ? word % 48 + 1 : (word - 191) * 16;
    switch_at_ = step + gap;
    pick_ = bytes_.Take<uint8_t>();
  }

  InputBytes bytes_;
  uint64_t switch_at_ = 0;
  uint32_t pick_ = 0;
  uint32_t ages_ = 0;
  bool is_over_ = false;
};

const std::vector<Scenario>& Scenarios() {
  static const auto* const scenarios = new std::vector<Scenario>(MakeScenarios("", 40));
  return *scenarios;
}

void Run(InputBytes bytes) {
  const Scenario& scenario = Scenarios()[bytes.Take<uint16_t>() % Scenarios().size()];
  const uint32_t world = bytes.Take<uint8_t>();
  static FiberScheduler fibers;
  ByteStrategy strategy(bytes);
  const RunOptions options = {.weak_memory = (world & 1) != 0};
  const uint64_t seed = world >> 1;
  RunResult result = RunProgram(fibers, ProgramOf(scenario, seed), strategy, options);
  if (result.finding.empty()) return;
  const Finding finding = {.scenario = scenario.Name(),
                           .seed = seed,
                           .weak_memory = options.weak_memory,
                           .schedule = std::move(result.schedule),
                           .what = result.finding};
  std::fprintf(stderr, "%s: %s\n%s\n", finding.scenario.c_str(), finding.what.c_str(),
               finding.ToCpp().c_str());
  std::abort();
}

}  // namespace
}  // namespace tdp::explore

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size >= 3) tdp::explore::Run(tdp::fuzz::InputBytes(data, size));
  return 0;
}
