// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Changes the attribute of a page, and what a view allows of it, where many pages differ from their
// neighbours already.

#include <cstdint>
#include <random>
#include <vector>

#include "benchmark/benchmark.h"
#include "benchmarks/guest.h"
#include "tdp/base/check.h"
#include "tdp/mmu/vm.h"

namespace tdp::bench {
namespace {

constexpr PageCount kPage{1};

// A guest in which every second page of `runs` pages differs; nothing is mapped.
uint64_t PagesFor(const benchmark::State& state) { return static_cast<uint64_t>(state.range(0)); }

std::vector<uint64_t> RandomPages(uint64_t below) {
  std::mt19937_64 random(1);
  std::vector<uint64_t> pages(4096);
  for (uint64_t& page : pages) page = random() % below;
  return pages;
}

// One page at a time becomes private, or shared again, and so a run comes or goes.
void BM_SetMemoryAttributes(benchmark::State& state) {
  const uint64_t pages = PagesFor(state);
  Guest guest(GiB(1), 0, {.private_memory = true});
  const auto set = [&guest](uint64_t page, bool is_private) {
    TDP_CHECK(guest.vm
                  ->SetMemoryAttributes(Gfn(page).address(), kPageSize,
                                        is_private ? kMemoryAttributePrivate : 0)
                  .ok());
  };
  for (uint64_t page = 0; page < pages; page += 2) set(page, true);
  const std::vector<uint64_t> some = RandomPages(pages / 2);
  size_t i = 0;
  bool is_private = false;
  for (auto _ : state) {
    set(2 * some[i], is_private);
    if (is_private) i = (i + 1) % some.size();
    is_private = !is_private;
  }
}
BENCHMARK(BM_SetMemoryAttributes)->ArgName("runs")->Arg(2)->Arg(310)->Arg(3100)->Arg(31000);

// Does the same with a page that a tool hooks and lets go.
void BM_SetViewRights(benchmark::State& state) {
  const uint64_t pages = PagesFor(state);
  Guest guest(GiB(1), 0);
  const ViewId view = *guest.vm->CreateView();
  const auto set = [&](uint64_t page, Access rights) {
    TDP_CHECK(guest.vm->SetViewRights(view, Gfn(page), kPage, rights).ok());
  };
  for (uint64_t page = 0; page < pages; page += 2) set(page, Access::ReadExecute());
  const std::vector<uint64_t> some = RandomPages(pages / 2);
  size_t i = 0;
  bool hooked = false;
  for (auto _ : state) {
    set(2 * some[i], hooked ? Access::ReadExecute() : Access::All());
    if (hooked) i = (i + 1) % some.size();
    hooked = !hooked;
  }
}
BENCHMARK(BM_SetViewRights)
    ->ArgName("runs")
    ->Arg(2)
    ->Arg(310)
    ->Arg(3100)
    ->Arg(31000)
    ->Arg(200000);  // 100,000 hooked pages

}  // namespace
}  // namespace tdp::bench
