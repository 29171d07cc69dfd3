// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Hands batches of records from the thread that decodes traces to the thread that replays them.

#ifndef TDP_TOOLS_REPLAY_BATCH_CHANNEL_H_
#define TDP_TOOLS_REPLAY_BATCH_CHANNEL_H_

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tdp/base/absl_mutex.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

using Batch = std::vector<TraceRecord>;
// A batch for each CPU, in the order of their numbers; one may be empty.
using Round = std::vector<Batch>;

// One producer and one consumer. Rounds that were used come back to the producer, so that a replay
// allocates a few of them once.
class BatchChannel {
 public:
  // Full rounds that wait at most.
  static constexpr size_t kCapacity = 4;

  // One that was used before, or a new one.
  Round TakeEmpty() ABSL_LOCKS_EXCLUDED(mutex_) {
    AbslMutexLock lock(mutex_);
    if (empty_.empty()) return {};
    Round round = std::move(empty_.back());
    empty_.pop_back();
    return round;
  }

  // Waits for room. False if the consumer has stopped: nobody will use the round.
  bool Push(Round round) ABSL_LOCKS_EXCLUDED(mutex_) {
    AbslMutexLock lock(mutex_);
    mutex_.Await(absl::Condition(this, &BatchChannel::HasRoomOrStopped));
    if (stopped_) return false;
    full_.push_back(std::move(round));
    return true;
  }

  // No more will come.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_) {
    AbslMutexLock lock(mutex_);
    closed_ = true;
  }

  // Waits for a round; nothing after the last. `used` is one that the consumer is done with.
  std::optional<Round> Pop(Round used) ABSL_LOCKS_EXCLUDED(mutex_) {
    AbslMutexLock lock(mutex_);
    empty_.push_back(std::move(used));
    mutex_.Await(absl::Condition(this, &BatchChannel::HasRoundOrClosed));
    if (full_.empty()) return std::nullopt;
    Round round = std::move(full_.front());
    full_.erase(full_.begin());
    return round;
  }

  // The consumer takes no more.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_) {
    AbslMutexLock lock(mutex_);
    stopped_ = true;
  }

 private:
  bool HasRoomOrStopped() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopped_ || full_.size() < kCapacity;
  }
  bool HasRoundOrClosed() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return closed_ || !full_.empty();
  }

  absl::Mutex mutex_;
  std::vector<Round> full_ ABSL_GUARDED_BY(mutex_);  // the next one first
  std::vector<Round> empty_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_BATCH_CHANNEL_H_
