// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/sweep/job_pool.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tdp/base/absl_mutex.h"

namespace tdp::tools {
namespace {

// Knows which job is next, and whether there is one.
class Queue {
 public:
  explicit Queue(size_t count) : count_(count) {}

  bool Take(size_t& job) {
    AbslMutexLock lock(mutex_);
    if (next_ == count_ || !status_.ok()) return false;
    job = next_++;
    return true;
  }
  void Fail(absl::Status status) {
    AbslMutexLock lock(mutex_);
    status_.Update(status);
  }
  absl::Status status() {
    AbslMutexLock lock(mutex_);
    return status_;
  }

 private:
  const size_t count_;
  absl::Mutex mutex_;
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status RunJobs(size_t count, size_t threads, absl::FunctionRef<absl::Status(size_t)> run) {
  Queue queue(count);
  const auto work = [&queue, run] {
    for (size_t job; queue.Take(job);) {
      if (absl::Status status = run(job); !status.ok()) queue.Fail(status);
    }
  };
  std::vector<std::thread> others;
  for (size_t i = 1; i < std::min(threads, count); ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  return queue.status();
}

}  // namespace tdp::tools
