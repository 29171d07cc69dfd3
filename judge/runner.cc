// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/runner.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/judge/contract.h"
#include "tdp/judge/generator.h"
#include "tdp/judge/step_mode.h"

namespace tdp::judge {
namespace {

constexpr int kStepsASequence = 40;
constexpr int kSequencesAChild = 4000;
// Seconds of CPU time that one step may take without a store to a table, and with such; and of any
// time that a child may show no progress.
constexpr int kHangTicks = 3;
constexpr int kLongTicks = 20;
constexpr double kSilence = 300;
constexpr int kShrinkRuns = 300;
constexpr double kShrinkSeconds = 10;
constexpr int kHangExit = 9;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Record* g_watched = nullptr;
uint64_t g_last_operations = 0;
uint64_t g_last_stores = 0;
int g_ticks = 0;
int g_idle_ticks = 0;

// Every second of this process's CPU time.
void OnTick(int, siginfo_t*, void* context) {
  const uint64_t now = g_watched->operations + g_watched->sequences;
  if (now != g_last_operations) g_ticks = g_idle_ticks = 0;
  if (g_watched->announced != g_last_stores) g_idle_ticks = 0;
  g_last_operations = now;
  g_last_stores = g_watched->announced;
  if (++g_idle_ticks <= kHangTicks && ++g_ticks <= kLongTicks) return;
#if defined(__x86_64__)
  const auto& registers = static_cast<const ucontext_t*>(context)->uc_mcontext.gregs;
  g_watched->hung_at = static_cast<uint64_t>(registers[REG_RIP]);
#else
  (void)context;
#endif
  _exit(kHangExit);
}

void WatchForHangs(Record& record) {
  g_watched = &record;
  g_ticks = g_idle_ticks = 0;
  struct sigaction action = {};
  action.sa_sigaction = OnTick;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigaction(SIGPROF, &action, nullptr);
  const itimerval every_second = {{1, 0}, {1, 0}};
  setitimer(ITIMER_PROF, &every_second, nullptr);
}

sigset_t ChildSignal() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  return signals;
}

[[noreturn]] void EndChild() { _exit(1); }

// A subject's output is of use once, not in each of the runs that shorten its sequence.
void Silence() {
  const int nowhere = open("/dev/null", O_WRONLY);
  if (nowhere < 0) return;
  dup2(nowhere, STDOUT_FILENO);
  dup2(nowhere, STDERR_FILENO);
  close(nowhere);
}

}  // namespace

Runner::Runner(const tdpj_subject& subject, StoreView view) : subject_(subject), view_(view) {
  void* memory =
      mmap(nullptr, sizeof(Record), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  TDP_CHECK(memory != MAP_FAILED);
  record_ = new (memory) Record();
  // Blocked, so that a child's end wakes who waits for it.
  const sigset_t ended = ChildSignal();
  sigprocmask(SIG_BLOCK, &ended, nullptr);
}

Verdict Runner::TakeVerdict(int status, bool hung) {
  Verdict verdict;
  if (record_->has_finding) {
    verdict.found = true;
    verdict.misuse = record_->finding.misuse;
    verdict.signature = record_->finding.signature;
    verdict.sentence = record_->finding.sentence;
    const Finding& finding = record_->finding;
    if (finding.pc != 0) verdict.place = PlaceOf(finding.pc);
    if (finding.caller != 0)
      absl::StrAppend(&verdict.place, ", called at ", PlaceOf(finding.caller));
  } else if (hung || (WIFEXITED(status) && WEXITSTATUS(status) == kHangExit)) {
    verdict.found = true;
    verdict.signature = "hang";
    verdict.sentence = "the last step does not come to an end";
    if (record_->hung_at != 0) verdict.place = PlaceOf(record_->hung_at);
  } else if (WIFSIGNALED(status)) {
    verdict.found = true;
    verdict.signature = "crash";
    verdict.sentence = absl::StrFormat("the subject crashed with signal %d", WTERMSIG(status));
  } else if (WIFEXITED(status) && (WEXITSTATUS(status) != 0 || !record_->finished)) {
    verdict.found = true;
    verdict.signature = "exit";
    verdict.sentence =
        absl::StrFormat("the subject ended the process with status %d", WEXITSTATUS(status));
  }
  if (!verdict.found) return verdict;
  verdict.steps.assign(record_->steps, record_->steps + record_->count);
  const bool bare =
      verdict.signature == "hang" || verdict.signature == "crash" || verdict.signature == "exit";
  if (bare && !verdict.steps.empty()) {
    absl::StrAppend(&verdict.signature, ".", StepName(verdict.steps.back().kind));
  }
  return verdict;
}

template <typename Body>
Verdict Runner::InChild(Body body) {
  record_->has_finding = record_->finished = false;
  record_->hung_at = 0;
  record_->count = record_->left_out = 0;
  std::fflush(nullptr);
  const pid_t child = fork();
  TDP_CHECK(child >= 0);
  if (child == 0) {
    if (quiet_) Silence();
    InstallFaultHandlers(view_ == StoreView::kStep);
    WatchForHangs(*record_);
    Session session(subject_, *record_, view_, EndChild);
    body(session);
    record_->finished = true;
    std::fflush(nullptr);
    _exit(0);
  }
  int status = 0;
  bool hung = false;
  uint64_t last = 0;
  double since = Now();
  while (waitpid(child, &status, WNOHANG) == 0) {
    const uint64_t progress = record_->operations + record_->sequences + record_->announced;
    if (progress != last) {
      last = progress;
      since = Now();
    }
    if (Now() - since > kSilence) {
      kill(child, SIGKILL);
      hung = true;
      waitpid(child, &status, 0);
      break;
    }
    // Waits for the child's end, or for the next look at its progress.
    const timespec timeout = {0, 100 * 1000 * 1000};
    const sigset_t ended = ChildSignal();
    sigtimedwait(&ended, nullptr, &timeout);
  }
  return TakeVerdict(status, hung);
}

void RunSequences(Session& session, Record& record, uint64_t seed, const RunLimits& limits) {
  const double end = Now() + limits.seconds;
  const uint64_t last = record.operations + std::min(limits.operations, ~uint64_t{0} / 2);
  // A subject that does not say that it gives every frame back may keep some for the next time.
  const bool starts_anew = session.subject().destroy != nullptr &&
                           (session.subject().contract.claims & TDPJ_FREES_ALL) != 0;
  const int most = starts_anew ? kSequencesAChild : 1;
  for (int i = 0; i < most && record.operations < last && Now() < end; ++i) {
    record.count = 0;
    Generator generator(session.subject(), seed + static_cast<uint64_t>(i),
                        session.frames().first(), kFrames * kPage);
    session.Begin();
    for (int n = 0; n < kStepsASequence && !session.is_over(); ++n) {
      tdpj_step step;
      if (!generator.Next(session.map(), session.logged(), step)) break;
      if (record.operations >= last) break;
      session.Run(step);
    }
    session.End();
  }
}

Verdict Runner::Explore(uint64_t seed, const RunLimits& limits, uint64_t& next_seed) {
  const double end = Now() + limits.seconds;
  const uint64_t first = record_->operations;
  next_seed = seed;
  while (Now() < end && record_->operations - first < limits.operations) {
    const uint64_t before = record_->sequences;
    const RunLimits left = {limits.operations - (record_->operations - first), end - Now()};
    Verdict verdict =
        InChild([&](Session& session) { RunSequences(session, *record_, next_seed, left); });
    next_seed += std::max<uint64_t>(record_->sequences - before, 1);
    if (verdict.found) return verdict;
  }
  return {};
}

Verdict Runner::Replay(const std::vector<tdpj_step>& steps) {
  return InChild([&](Session& session) {
    session.Begin();
    for (size_t i = 0; i < steps.size(); ++i) {
      const char* const why = session.WhyNot(steps[i]);
      if (why == nullptr) {
        session.Run(steps[i]);
      } else if (record_->left_out++ == 0) {
        record_->first_left_out = i + 1;
        std::snprintf(record_->why_left_out, sizeof record_->why_left_out, "%s", why);
      }
    }
    session.End();
  });
}

Verdict Runner::Shrink(Verdict verdict) {
  int runs = 0;
  const double end = Now() + kShrinkSeconds;
  const auto try_steps = [&](const std::vector<tdpj_step>& steps) {
    if (++runs > kShrinkRuns || Now() > end) return false;
    Verdict shorter = Replay(steps);
    if (!shorter.found || shorter.signature != verdict.signature) return false;
    verdict = std::move(shorter);
    return true;
  };
  quiet_ = true;
  if (!try_steps(verdict.steps)) {  // it does not come up again: as it is
    quiet_ = false;
    return verdict;
  }
  for (size_t chunk = verdict.steps.size(); chunk > 0; chunk /= 2) {
    for (size_t at = 0; at < verdict.steps.size();) {
      std::vector<tdpj_step> steps = verdict.steps;
      const auto begin = steps.begin() + static_cast<ptrdiff_t>(at);
      steps.erase(begin, begin + static_cast<ptrdiff_t>(std::min(chunk, steps.size() - at)));
      if (steps.empty() || !try_steps(steps)) at += chunk;
    }
  }
  for (size_t i = 0; i < verdict.steps.size(); ++i) {
    const auto change = [&](auto edit) {
      if (i >= verdict.steps.size()) return;
      std::vector<tdpj_step> steps = verdict.steps;
      edit(steps[i]);
      if (std::memcmp(&steps[i], &verdict.steps[i], sizeof steps[i]) != 0) try_steps(steps);
    };
    change([](tdpj_step& step) { step.fail_at = 0; });
    change([](tdpj_step& step) { step.size = kPage; });
    change([](tdpj_step& step) { step.size = std::min(step.size, kPage2M); });
    change([](tdpj_step& step) { step.hpa = step.gpa & (kPage2M - 1); });
    change([](tdpj_step& step) { step.seed = 1; });
  }
  quiet_ = false;
  return verdict;
}

}  // namespace tdp::judge
