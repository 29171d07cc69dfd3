// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Hands batches of records from the thread that decodes a trace to the thread of one CPU.

#ifndef TDP_TOOLS_REPLAY_BATCH_CHANNEL_H_
#define TDP_TOOLS_REPLAY_BATCH_CHANNEL_H_

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

using Batch = std::vector<TraceRecord>;

// One producer and one consumer. Batches that were used come back to the producer, so that a replay
// allocates a few of them once.
class BatchChannel {
 public:
  // Full batches that wait at most.
  static constexpr size_t kCapacity = 4;

  // An empty batch, used before or new.
  Batch TakeEmpty() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (empty_.empty()) return {};
    Batch batch = std::move(empty_.back());
    empty_.pop_back();
    return batch;
  }

  // Waits for room. False if the consumer has stopped: nobody will use the batch.
  bool Push(Batch batch) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &BatchChannel::HasRoomOrStopped));
    if (stopped_) return false;
    full_.push_back(std::move(batch));
    return true;
  }

  // No more will come.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }

  // Waits for a batch; nothing after the last. `used` is one that the consumer is done with.
  std::optional<Batch> Pop(Batch used) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    empty_.push_back(std::move(used));
    mutex_.Await(absl::Condition(this, &BatchChannel::HasBatchOrClosed));
    if (full_.empty()) return std::nullopt;
    Batch batch = std::move(full_.front());
    full_.erase(full_.begin());
    return batch;
  }

  // The consumer takes no more.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
  }

 private:
  bool HasRoomOrStopped() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopped_ || full_.size() < kCapacity;
  }
  bool HasBatchOrClosed() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return closed_ || !full_.empty();
  }

  absl::Mutex mutex_;
  std::vector<Batch> full_ ABSL_GUARDED_BY(mutex_);  // the next one first
  std::vector<Batch> empty_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_BATCH_CHANNEL_H_
