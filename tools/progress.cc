// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/progress.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace tdp::tools {
namespace {

constexpr absl::Duration kFirst = absl::Milliseconds(500);
constexpr absl::Duration kInterval = absl::Milliseconds(200);
constexpr char kEraseLine[] = "\r\033[K";

}  // namespace

Progress::Progress(bool shown)
    : enabled_(shown && isatty(STDERR_FILENO) != 0), start_(absl::Now()), next_(start_ + kFirst) {}

Progress::~Progress() {
  if (shown_) std::fputs(kEraseLine, stderr);
}

void Progress::SetPrefix(std::string prefix) {
  prefix_ = std::move(prefix);
  if (!enabled_) return;
  shown_ = true;
  absl::FPrintF(stderr, "%s%s", kEraseLine, prefix_);
  std::fflush(stderr);
}

void Progress::Update(uint64_t accesses, const ByteSource& source) {
  if (!enabled_) return;
  const absl::Time now = absl::Now();
  if (now < next_) return;
  next_ = now + kInterval;
  shown_ = true;
  const double millions = static_cast<double>(accesses) / 1e6;
  absl::FPrintF(stderr, "%s%s%.1f million accesses, %.1f million/s", kEraseLine, prefix_, millions,
                millions / absl::ToDoubleSeconds(now - start_));
  if (source.stored_size() != 0) {
    absl::FPrintF(stderr, ", %d%% of the file",
                  100 * source.stored_offset() / source.stored_size());
  }
  std::fflush(stderr);
}

void Progress::UpdateCheck(uint64_t pages, uint64_t all) {
  if (!enabled_) return;
  const absl::Time now = absl::Now();
  if (now < next_) return;
  next_ = now + kInterval;
  shown_ = true;
  absl::FPrintF(stderr, "%s%schecking: %d%% of %d pages", kEraseLine, prefix_, 100 * pages / all,
                all);
  std::fflush(stderr);
}

}  // namespace tdp::tools
